"""`linear`: a layer with a quantized weight, its activations quantized on the fly, row by row, or left as they are.

    x (m, in) ──quantize_rows──► codes, a scale per row ─┐
                                                         ├─ scaled_matmul, or the sum over blocks of in ──► + bias, act
    weight (in, out): QTensor or its prepack ────────────┘

On the CPU real activations meet the packed weight as they are (cpu/real_gemm.py). On a GPU all of it is done by kernels
there, and nothing waits. Only a weight without elements, and one in blocks of more codes than int32 holds the products
of, are multiplied on the host.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq import arrays, device_layers, dispatch, environment, matmul, validate
from gpuq.arithmetic import FLOAT32, FLOAT32_MAX, SMALLEST_NORMAL
from gpuq.arrays import View
from gpuq.block_products import CODES, PackedQTensor, Segments, block_length, bytes_of, host_sum, spread
from gpuq.calls import repeatable, start
from gpuq.cpu import rows
from gpuq.cpu.block_weight import BlockWeight, in_blocks, is_whole
from gpuq.cpu.isa import INSTRUCTION_SETS
from gpuq.cpu.linear import BlockLayer, Layer, PlainLayer, RealLayer, as_rows, quantize_rows
from gpuq.cpu.operators import HALF_CODES
from gpuq.cpu.pack import Packed
from gpuq.cpu.steps import take
from gpuq.dtypes import type_name
from gpuq.layout import as_array, read_only
from gpuq.matmul import PRODUCT_ACTIVATIONS, SCALED_TYPES
from gpuq.qtensor import QTensor
from gpuq.transfer import beside, to_host

Array = npt.NDArray[Any]


@repeatable
def linear(x: Any, weight: Any, bias: Any = None, *, activation: str | None = None, activations: str = "int8") -> Any:
    """A linear layer: act(x @ weight + bias).

    Parameters
    ----------
    x : array of float32, float16 or bfloat16, shape (…, in)
    weight : QTensor of shape (in, out), or its prepack
        int8, uint8, int4 or uint4; per tensor, per column (axis 1), or per block along in (axis 0, block_size).
    bias : float or array of a real type, optional
        One element or (out,).
    activation : {None, "relu", "relu6", "gelu", "silu"}
    activations : {"int8", "float"}
        "int8": each row of x is quantized, symmetric, with sx = max(f32(absmax / 127), 2^-126), absmax over its finite
        values; 1 for a row of zeros. "float": x as it is times the dequantized weight, summed in float32.

    Returns
    -------
    array of x's type and kind, shape (…, out)
        "int8": act(f32(f32(f32(acc)·f32(sx·sw)) + f32(bias))), rounded once; with blocks their f32(f32(acc)·f32(sx·sw))
        are added in float32 in increasing k.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what came and what is accepted; a ValueError where sx·sw is no normal float32, on a GPU
        with `GPUQ_CHECK=1` alone.

    Notes
    -----
    Dynamic quantization as torch.ao.nn.quantized.dynamic.Linear, with a scale per row as in LLM.int8() (Dettmers et
    al., arXiv 2208.07339, section 2.1).
    """
    view = validate.array("x", x, SCALED_TYPES)
    tensor = _weight(weight)
    if not view.shape or view.shape[-1] != tensor.shape[0]:
        raise ValueError(f"x: got shape {view.shape}; accepted: (…, {tensor.shape[0]}), as weight has {tensor.shape}")
    code = validate.choice("activation", activation, PRODUCT_ACTIVATIONS)
    kept = validate.choice("activations", activations, {"int8": False, "float": True})
    if "cpu" != view.device == tensor.device and tensor.shape[0]:
        own_bias = _bias_beside(view, bias, tensor.shape[1])
        length = block_length(tensor, 0)
        if not kept and not length:
            return _on_device(view, weight, tensor, own_bias, activation)
        if device_layers.takes(tensor, 0 if kept else length, device_layers.LONGEST_BLOCK):
            return _in_blocks_on_device(view, weight, tensor, own_bias, code, kept, length or tensor.shape[0])
    biases = _bias(bias, tensor.shape[1])
    if not kept and view.device == "cpu" == tensor.device and weight is tensor and block_length(tensor, 0):
        weight = tensor.prepack()  # takes less time than its blocks one by one
    here = arrays.on_host(view)
    source = _as_rows(here)
    if not kept and _is_one_part(view, weight):
        y = _packed_product(view, weight, biases, code)
        if y is not None:
            return y
    if kept:
        y = _real_product(view, source, weight, tensor, biases, code)
        if y is not None:
            return y
        total = _float_product(source, view.type, tensor)
    elif block_length(tensor, 0):
        total = _block_product(source, view.type, weight, tensor)
    else:
        return _product(view, source, weight, tensor, biases, activation)
    y = np.empty(total.shape, source.dtype)
    rows.finish(total, read_only(np.broadcast_to(biases, tensor.shape[1:]).copy()), code, _real(view), y)
    return _shaped(view, y)


def _weight(weight: Any) -> QTensor:
    """The tensor of a weight, checked."""
    tensor = weight.unpacked if isinstance(weight, PackedQTensor) else weight
    if not isinstance(tensor, QTensor):
        raise TypeError(f"weight: got an object of type {type(weight).__name__}; accepted: a QTensor or its prepack")
    name = type_name(tensor.dtype)
    if name not in CODES:
        raise TypeError(f"weight: got a QTensor of {name}; accepted: {', '.join(CODES)}")
    if tensor.ndim != 2:
        raise ValueError(f"weight: got shape {tensor.shape}; accepted: (in, out)")
    if tensor.axis is not None and (tensor.axis == 0) != (tensor.block_size > 0):
        grain = f"per block along axis {tensor.axis}" if tensor.block_size else f"per axis {tensor.axis}"
        raise ValueError(f"weight: got one {grain}; accepted: per tensor, per axis 1, or per block along axis 0")
    return tensor


def _bias(bias: Any, out: int) -> Array:
    """The bias on the host as float32, one element or (out,)."""
    given = arrays.view(bias)
    if given is not None and given.device != "cpu":
        bias = to_host(bias)
    values = as_array(validate.real_numbers("bias", 0.0 if bias is None else bias))
    if values.size != 1 and values.shape != (out,):
        raise ValueError(f"bias: got shape {values.shape}; accepted: one element or ({out},)")
    return values.reshape(-1)


def _bias_beside(view: View, bias: Any, out: int) -> Any:
    """The bias where x lies: as it is if it lies there, one number as a float."""
    given = arrays.view(bias)
    if given is not None and given.device == view.device and given.shape in ((), (1,), (out,)):
        return bias
    values = _bias(bias, out)
    return float(values[0]) if values.size == 1 else beside(view, values, "float32")


def _as_rows(view: View) -> Array:
    """The elements of an array on the host, contiguous and aligned, all axes but the last as one."""
    return as_rows(arrays.readable(view))


def _real(view: View) -> int:
    return HALF_CODES.get(view.type, FLOAT32)


def _shaped(view: View, y: Array) -> Any:
    """Rows of a result as an array of x's kind, with x's leading axes."""
    shaped = y.reshape(*view.shape[:-1], y.shape[-1])
    return beside(view, shaped, view.type)


def _require_normal(scales: Array, weight_scale: Array) -> None:
    if scales.size == 0 or weight_scale.size == 0:
        return
    with np.errstate(over="ignore", under="ignore"):
        least, most = scales.min() * weight_scale.min(), scales.max() * weight_scale.max()
    if not (least >= SMALLEST_NORMAL and most <= FLOAT32_MAX):
        bad = least if least < SMALLEST_NORMAL else most
        raise ValueError(f"x: got a row whose scale times weight's is {bad}; accepted: normal float32 numbers")


def _operands(weight: Any, tensor: QTensor) -> tuple[Any, Any, Any]:
    """The right operand of a product, its scale, and its zero points (None where it is packed with them)."""
    scale = spread(tensor, tensor.scale) if tensor.shape[0] else 1.0  # no rows, no blocks of them: any will do
    if isinstance(weight, PackedQTensor):
        return weight.parts[0], scale, None
    return bytes_of(tensor), scale, spread(tensor, tensor.zero_point) if tensor.shape[0] else None


def _is_one_part(view: View, weight: Any) -> bool:
    """Whether the weight is packed in one part, and everything on the CPU."""
    if not isinstance(weight, PackedQTensor) or not view.device == "cpu" == weight.unpacked.device:
        return False
    return weight.shape[0] > 0 and len(weight.parts) == 1


def _packed_product(view: View, weight: PackedQTensor, bias: Array, activation: int) -> Any:
    """With everything on the CPU, as one step; None where products of scales have to be looked at one by one."""
    x, packed = arrays.readable(view), weight.parts[0]
    call = start("scaled_matmul", None, None, {"x": view, "weight": packed})
    y, real = np.empty((*view.shape[:-1], weight.shape[1]), x.dtype), _real(view)
    if isinstance(packed._packed, BlockWeight):
        layer: Layer = BlockLayer(x, real, packed._packed, bias, activation, y)
    else:
        scale = np.asarray(to_host(weight.unpacked.scale), np.float32)
        layer = PlainLayer(x, real, packed, scale, bias, activation, y)
    call.record("scaled_matmul", packed._packed.isa)
    return None if take(layer, x, packed._packed, y) else arrays.like(view.owner, y, view.type)


def _product(view: View, x: Array, weight: Any, tensor: QTensor, bias: Array, activation: str | None) -> Any:
    codes, scales = quantize_rows(x, _real(view))
    _require_normal(scales, to_host(tensor.scale))
    if tensor.device != "cpu":
        weight = tensor = tensor.to("cpu")
    b, scale, b_points = _operands(weight, tensor)
    options: dict[str, Any] = {"bias": bias, "activation": activation, "dtype": view.type}
    if view.device != "cpu":
        y = matmul.scaled_matmul(codes, b, scales, scale, None, b_points, **options)
        return _shaped(view, y.view(x.dtype))
    a = arrays.like(view.owner, codes, "int8")
    y = matmul.scaled_matmul(a, b, scales, scale, None, b_points, **options)
    return y.reshape(*view.shape[:-1], tensor.shape[1])


def _on_device(view: View, weight: Any, tensor: QTensor, bias: Any, activation: str | None) -> Any:
    """Both on one GPU."""
    codes, scale = device_layers.quantize_rows(view.owner)
    packed = isinstance(weight, PackedQTensor)
    b, b_points = (weight.parts[0], None) if packed else (tensor.data, tensor.zero_point)
    options: dict[str, Any] = {"bias": bias, "activation": activation, "dtype": view.type}
    return matmul.scaled_matmul(codes, b, scale, tensor.scale, None, b_points, **options)


def _in_blocks_on_device(
    view: View, weight: Any, tensor: QTensor, bias: Any, activation: int, kept: bool, length: int
) -> Any:
    """Both on one GPU, with blocks along k, or real activations."""
    x, scales = (view.owner, None) if kept else device_layers.quantize_rows(view.owner)
    if not kept and environment.read("GPUQ_CHECK") == "1":
        _require_normal(to_host(scales), to_host(tensor.scale))
    # blocks that the kernels add no integers of are packed one by one
    packed = isinstance(weight, PackedQTensor) and len(weight.parts) == 1
    codes = weight.parts[0] if packed else tensor.data
    bits, parameters = device_layers.bits_of(tensor), (tensor.scale, tensor.zero_point)
    return device_layers.multiply(x, scales, None, codes, *parameters, bias, length, bits, activation, view.type)


def _block_product(x: Array, type: str, weight: Any, tensor: QTensor) -> Array:
    codes, scales = quantize_rows(x, HALF_CODES.get(type, FLOAT32))
    _require_normal(scales, to_host(tensor.scale))
    whole = not isinstance(weight, PackedQTensor) or len(weight.parts) == 1
    packed = None if whole or tensor.device != "cpu" else weight.parts
    segments = Segments(tensor.to("cpu"), left=False)
    return host_sum(_Rows(codes, scales), segments, 0, block_length(tensor, 0), packed)


class _Rows:
    """Quantized activations, to be taken apart along k as an operand is."""

    def __init__(self, codes: Array, scales: Array) -> None:
        self._codes, self._scales = codes, scales

    def at(self, first: int, last: int) -> tuple[Array, Array, None]:
        return self._codes[:, first:last], self._scales, None


def _real_product(view: View, x: Array, weight: Any, tensor: QTensor, bias: Array, activation: int) -> Any:
    """x times the dequantized weight, on the CPU, by the weight's packed form; None where there is none."""
    n = tensor.shape[1]
    packed = _packed_weight(weight, tensor.to("cpu")) if x.size * n else None
    if packed is None:
        return None
    one_part = _is_one_part(view, weight)
    known = weight.parts[0]._packed if one_part else packed
    own = None if known is packed else packed  # parameters, where the weight's packed form has none
    layer = RealLayer(view.type, own, read_only(np.broadcast_to(bias, (n,)).copy()), activation)
    dispatch.record_path(dispatch.Path("cpu", "linear", packed.isa))
    if not one_part:
        y = np.empty((len(x), n), x.dtype)
        layer(x, packed, y)
        return _shaped(view, y)
    y = np.empty((*view.shape[:-1], n), x.dtype)
    take(layer, arrays.readable(view), known, y)
    return arrays.like(view.owner, y, view.type)


def _packed_weight(weight: Any, local: QTensor) -> BlockWeight | None:
    """What the CPU's kernel takes of a weight; None where it takes no such blocks."""
    (k, n), length, known = local.shape, block_length(local, 0), None
    if isinstance(weight, PackedQTensor) and weight.unpacked is local and len(weight.parts) == 1:
        known = weight.parts[0]._packed
    if isinstance(known, BlockWeight):
        return known
    if known is None and not is_whole(length, INSTRUCTION_SETS[dispatch.instruction_set()]):
        return None
    packed: Packed = known or matmul.prepack(bytes_of(local), device="cpu")._packed
    shape = (-(-k // length) if length else 1, n)
    points, scale = (np.broadcast_to(to_host(values), shape) for values in (local.zero_point, local.scale))
    return in_blocks(packed, length or k, scale, points)


def _float_product(x: Array, type: str, tensor: QTensor) -> Array:
    """x times the dequantized weight, in float32."""
    with np.errstate(all="ignore"):  # NaN and infinities in x
        return np.matmul(arrays.real_numbers(View(x, type, "cpu", False, None)), to_host(tensor.dequantize()))
