# Sourced by the scripts beside it. Makes the virtual environment .venv in the checkout and fills it.
#
#   root        the checkout
#   cuda_extra  prints cu12 or cu13, the extra for this machine's driver; cu13 where there is none
#   prepare X   makes .venv if need be, installs gpuq with its extras X there (editable), sets python to its interpreter;
#               does nothing more when that was done before for this pyproject.toml, this interpreter and this place
#
# PYTHON names the interpreter to make .venv with; without it an existing .venv is kept as it is. CUDA_EXTRA goes before
# what cuda_extra finds.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

# True for a Python that gpuq supports; pyproject.toml says the same.
supported() {
    "$@" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' >/dev/null 2>&1
}

# Prints the interpreter to make .venv with.
choose_interpreter() {
    local candidate candidates=(python3 python python3.14 python3.13 python3.12 python3.11 python3.10)
    if [ -n "${PYTHON:-}" ]; then
        candidates=("$PYTHON")
    fi
    for candidate in "${candidates[@]}"; do
        if supported "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    echo "gpuq needs Python 3.10 to 3.14; ${PYTHON:-python3} is not one. Set PYTHON to an interpreter." >&2
    return 1
}

# Sets python to .venv's interpreter, which Windows keeps elsewhere.
find_python() {
    python="$root/.venv/bin/python"
    if [ -x "$root/.venv/Scripts/python.exe" ]; then
        python="$root/.venv/Scripts/python.exe"
    fi
}

# True if .venv is whole and of the version that PYTHON asks for.
environment_fits() {
    supported "$python" || return 1
    [ -n "$(find "$root/.venv" -maxdepth 1 -name 'gpuq-*.stamp')" ] || "$python" -m pip --version >/dev/null 2>&1 || return 1
    [ -z "${PYTHON:-}" ] || [ "$("$PYTHON" -VV 2>&1)" = "$("$python" -VV)" ]
}

make_environment() {
    local interpreter
    interpreter="$(choose_interpreter)" || return 1
    echo "making $root/.venv with $("$interpreter" --version)"
    if ! "$interpreter" -m venv --clear "$root/.venv"; then
        echo "$interpreter has no working venv module (Debian and Ubuntu: apt install python3-venv)" >&2
        return 1
    fi
    find_python
}

# Prints what an installation depends on, as one line.
installation_key() {
    "$python" - <<'PYTHON'
import hashlib
import pathlib
import sys

print(hashlib.sha256(pathlib.Path("pyproject.toml").read_bytes()).hexdigest(), sys.version.split()[0], pathlib.Path.cwd())
PYTHON
}

# Newer programs say CUDA UMD Version.
cuda_extra() {
    local version
    version="$(nvidia-smi 2>/dev/null | sed -n 's/.*CUDA[A-Z ]* Version: *\([0-9]*\).*/\1/p')" || true
    echo "${CUDA_EXTRA:-cu$([ "$version" = 12 ] && echo 12 || echo 13)}"
}

prepare() {
    local extras="$1" stamp="$root/.venv/gpuq-$1.stamp" key
    find_python
    environment_fits || make_environment || return 1
    key="$(cd "$root" && installation_key)" || return 1
    if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$key" ]; then
        echo "installing gpuq[$extras] into $root/.venv"
        (cd "$root" && "$python" -m pip install --quiet --editable ".[$extras]") || return 1
        # an installation for one CUDA version replaces that for the other
        [[ "$extras" != *cu1* ]] || rm -f "$root"/.venv/gpuq-*cu1[23].stamp
        echo "$key" >"$stamp"
    fi
}
