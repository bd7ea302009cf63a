"""PTX text as data: functions with their registers, variables, labels and instructions; anything unknown is a
ParseError.

Inline assembly brings nested `{ .reg …; … }` scopes: every register and variable gets a name that is unique in its
function, so that nothing behind the parser knows scopes. Source: PTX ISA, "Syntax" and "Directives".
"""

from __future__ import annotations

import re

from .errors import ParseError
from .ptxtypes import BITS
from .syntax import Address, Function, Immediate, Instruction, Module, Operand, Register, Symbol, Variable, Vector

TOKEN = re.compile(
    r"(?P<space>[ \t\r\n]+|//[^\n]*|/\*.*?\*/)"
    r'|(?P<text>"[^"]*")'
    r"|(?P<word>(?:[\w.$%]|::)+)"
    r"|(?P<mark>[][{}()<>,;:@!|+=-])",
    re.S,
)
LINKAGE = {".visible", ".extern", ".weak", ".common"}
SPACES = {".shared", ".global", ".const", ".local", ".param"}


class Tokens:
    """The tokens of a text with their lines, read front to back."""

    def __init__(self, text: str) -> None:
        self.words: list[str] = []
        self.lines: list[int] = []
        self.at = 0
        line, end = 1, 0
        for match in TOKEN.finditer(text):
            if match.start() != end:
                break
            end = match.end()
            word = match.group()
            if match.lastgroup != "space":
                self.words.append(word)
                self.lines.append(line)
            line += word.count("\n")
        if end != len(text):
            raise ParseError(f"line {line}: unknown character {text[end]!r}")

    def peek(self, ahead: int = 0) -> str:
        """The token `ahead` places on, or the empty string past the end."""
        index = self.at + ahead
        return self.words[index] if index < len(self.words) else ""

    def take(self, expected: str | None = None) -> str:
        """The next token; a ParseError where another one was expected."""
        word = self.peek()
        if not word or expected not in (None, word):
            raise ParseError(f"line {self.line()}: {word!r} where {expected or 'more text'!r} was expected")
        self.at += 1
        return word

    def accept(self, word: str) -> bool:
        """Take the next token if it is `word`."""
        if self.peek() != word:
            return False
        self.at += 1
        return True

    def line(self) -> int:
        """The source line of the next token."""
        return self.lines[min(self.at, len(self.lines) - 1)] if self.lines else 1


def parse(text: str) -> Module:
    """The module of a PTX text. Raises ParseError naming the line of whatever it does not know."""
    tokens, module = Tokens(text), Module()
    while word := tokens.peek():
        if word == ".version":
            tokens.at += 2
        elif word == ".address_size":
            tokens.take()
            tokens.take("64")
        elif word == ".target":
            tokens.take()
            module.target = int(re.sub(r"\D", "", tokens.take().split("_")[1]))
            while tokens.accept(","):
                tokens.take()
        elif word in LINKAGE:
            tokens.take()
        elif word in (".entry", ".func"):
            function = _function(tokens)
            module.functions[function.name] = function
        elif word in SPACES:
            for variable in _variables(tokens):
                module.variables[variable.name] = variable
        else:
            raise ParseError(f"line {tokens.line()}: unknown directive {word!r}")
    return module


def _function(tokens: Tokens) -> Function:
    """`.entry name (parameters) limits { body }`, or `.func` with its return parameters."""
    entry = tokens.take() == ".entry"
    returned = [] if entry else _parameters(tokens)
    function = Function(tokens.take(), entry)
    function.parameters = returned + _parameters(tokens)
    while tokens.peek() not in ("{", ";"):
        word = tokens.take()
        numbers = []
        while tokens.peek().isdigit():
            numbers.append(int(tokens.take()))
            tokens.accept(",")
        function.limits[word] = tuple(numbers)
    if not tokens.accept(";"):
        _Body(tokens, function).read()
    return function


def _parameters(tokens: Tokens) -> list[Variable]:
    found: list[Variable] = []
    if tokens.accept("("):
        while not tokens.accept(")"):
            found += _variables(tokens, end=(",", ")"))
            tokens.accept(",")
    return found


def _variables(tokens: Tokens, end: tuple[str, ...] = (";",)) -> list[Variable]:
    """`.space .align n .type a, b[4], c[] = {…}` up to the token in `end` (`;` is taken, others are left)."""
    space, alignment, kind = tokens.take()[1:], 0, ""
    while tokens.peek().startswith("."):
        word = tokens.take()[1:]
        if word == "align":
            alignment = int(tokens.take())
        elif word in BITS:
            kind = word
        elif word != "ptr" and "." + word not in SPACES:
            raise ParseError(f"line {tokens.line()}: unknown attribute .{word} of a variable")
    if not kind:
        raise ParseError(f"line {tokens.line()}: a variable without a known type: {tokens.peek()!r}")
    bytes_each = max(BITS[kind] // 8, 1)
    found = []
    while True:
        name, count, counted = tokens.take(), 1, True
        while tokens.accept("["):
            counted = tokens.peek() != "]"
            count *= int(tokens.take(), 0) if counted else 1
            tokens.take("]")
        values = _initializer(tokens) if tokens.accept("=") else ()
        size = count * bytes_each if counted else len(values) * bytes_each or None
        found.append(Variable(name, space, kind, alignment or bytes_each, size, values))
        if tokens.peek() in end:
            break
        tokens.take(",")
    if end == (";",):
        tokens.take(";")
    return found


def _initializer(tokens: Tokens) -> tuple[str, ...]:
    """The literals of `= 1` or `= {1, 2, …}`."""
    if not tokens.accept("{"):
        return (_signed(tokens),)
    values = []
    while not tokens.accept("}"):
        values.append(_signed(tokens))
        tokens.accept(",")
    return tuple(values)


def _signed(tokens: Tokens) -> str:
    return ("-" if tokens.accept("-") else "") + tokens.take()


class _Body:
    """The statements of one function, with the scopes that are open."""

    def __init__(self, tokens: Tokens, function: Function) -> None:
        self.tokens, self.function = tokens, function
        self.scopes: list[dict[str, str]] = []
        self.opened = 0

    def read(self) -> None:
        """Read from `{` to its `}`."""
        tokens = self.tokens
        self._open()
        while self.scopes:
            word = tokens.peek()
            if word == "{":
                self._open()
            elif word == "}":
                tokens.take()
                self.scopes.pop()
            elif word == ".reg":
                self._registers()
            elif word in SPACES:
                for variable in _variables(tokens):
                    self.function.variables[self._declare(variable.name)] = variable
            elif word == ".pragma":
                while tokens.take() != ";":
                    pass
            elif tokens.peek(1) == ":" and not word.startswith("@"):
                self.function.labels[self.resolve(tokens.take())] = len(self.function.instructions)
                tokens.take(":")
            else:
                self._instruction()

    def _open(self) -> None:
        """Enter a scope; its labels are declared ahead, because branches refer forwards."""
        self.tokens.take("{")
        self.scopes.append({})
        self.opened += 1
        depth, ahead = 0, 0
        while depth >= 0 and (word := self.tokens.peek(ahead)):
            depth += (word == "{") - (word == "}")
            if depth == 0 and self.tokens.peek(ahead + 1) == ":":
                self._declare(word)
            ahead += 1

    def _declare(self, name: str) -> str:
        """Give `name` of the innermost scope a unique name."""
        unique = name if len(self.scopes) == 1 else f"{name}#{self.opened}"
        self.scopes[-1][name] = unique
        return unique

    def resolve(self, name: str) -> str:
        """The unique name behind `name`; the name itself where no scope declares it."""
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        return name

    def _registers(self) -> None:
        """`.reg .type a, b<8>;`"""
        tokens = self.tokens
        tokens.take(".reg")
        kind = tokens.take()[1:]
        if kind not in BITS:
            raise ParseError(f"line {tokens.line()}: registers of unknown type .{kind}")
        while True:
            name = tokens.take()
            names = [name]
            if tokens.accept("<"):
                names = [f"{name}{index}" for index in range(int(tokens.take()))]
                tokens.take(">")
            for each in names:
                self.function.registers[self._declare(each)] = kind
            if tokens.accept(";"):
                return
            tokens.take(",")

    def _instruction(self) -> None:
        """`@p opcode operands;`"""
        tokens, start, line = self.tokens, self.tokens.at, self.tokens.line()
        guard = None
        if tokens.accept("@"):
            negated = tokens.accept("!")
            guard = Register(self.resolve(tokens.take()), negated)
        opcode, *modifiers = tokens.take().split(".")
        operands = []
        while not tokens.accept(";"):
            operands.append(self._operand())
            if tokens.peek() != ";":
                tokens.take(",")
        words = tokens.words[start : tokens.at]
        text = re.sub(r" (?=[],;}+])|(?<=[@!{[+-]) ", "", " ".join(words))
        self.function.instructions.append(Instruction(guard, opcode, tuple(modifiers), tuple(operands), line, text))

    def _operand(self) -> Operand:
        """One operand, `a|b` read as a Vector of two."""
        operand = self._single()
        if self.tokens.accept("|"):
            return Vector((operand, self._single()))
        return operand

    def _single(self) -> Operand:
        tokens = self.tokens
        if tokens.accept("["):
            base, offset = self._single(), 0
            while not tokens.accept("]"):
                plus = tokens.accept("+")
                minus = tokens.accept("-")
                if not plus and not minus:
                    raise ParseError(f"line {tokens.line()}: {tokens.peek()!r} in an address")
                offset += (-1 if minus else 1) * int(tokens.take().rstrip("U"), 0)
            return Address(base, offset)
        if tokens.peek() in ("{", "("):
            end = "}" if tokens.take() == "{" else ")"
            parts = []
            while not tokens.accept(end):
                parts.append(self._single())
                tokens.accept(",")
            return Vector(tuple(parts))
        if tokens.accept("-"):
            return Immediate("-" + tokens.take())
        negated = tokens.accept("!")
        word = tokens.take()
        if word[0].isdigit():
            return Immediate(word)
        unique = self.resolve(word)
        return Register(unique, negated) if unique in self.function.registers else Symbol(unique)
