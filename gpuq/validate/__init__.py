"""Every TypeError and ValueError of the operators on arrays: what the caller gave becomes what kernels may rely on.

Each function takes an argument's name and value and returns the checked value, or raises an error that names the
argument, what came and what is accepted. All of it happens before an output is touched.

    options.py   names, flags, integers, element types, devices, streams
    numbers.py   arrays of data; scales, zero points and other parameters
    shapes.py    which parameters and matrices belong together
    output.py    `out`

Values come as `arrays.seen` gives them: arrays as views. What is right most of the time, a Python number or an array
of NumPy's, is asked for first, with as few questions as tell it; only then comes everything else that is accepted.
"""

from gpuq.validate.numbers import (
    INT8_TYPES,
    Array,
    Integers,
    Reals,
    are_numbers,
    array,
    fixed_point_reals,
    int32_numbers,
    multiplier,
    multiplier_and_shift,
    quantized_type,
    ranges,
    real_numbers,
    scale,
    type_carried,
    y_scale,
    zero_point,
    zero_point_type,
)
from gpuq.validate.options import absent, choice, device_name, dtype, flag, integer, one_device, stream
from gpuq.validate.output import output
from gpuq.validate.shapes import column_vector, granularity, matmul, row_vector, scale_products

__all__ = [
    "INT8_TYPES",
    "Array",
    "Integers",
    "Reals",
    "absent",
    "are_numbers",
    "array",
    "choice",
    "column_vector",
    "device_name",
    "dtype",
    "fixed_point_reals",
    "flag",
    "granularity",
    "int32_numbers",
    "integer",
    "matmul",
    "multiplier",
    "multiplier_and_shift",
    "one_device",
    "output",
    "quantized_type",
    "ranges",
    "real_numbers",
    "row_vector",
    "scale",
    "scale_products",
    "stream",
    "type_carried",
    "y_scale",
    "zero_point",
    "zero_point_type",
]
