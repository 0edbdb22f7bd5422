"""What a model wants to be fed: names, types and shapes, and random values."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from hwpass.errors import InputError

if TYPE_CHECKING:
    import onnx

MAX_TOKEN = 16
"""Random integers stay below this: token and position tables are larger."""


Layout = Literal["NCHW", "NHWC"]


@dataclass(frozen=True)
class StatedInput:
    """Values lie in `range`, or are (pixel - mean) / std of pixels in [0, 1], one number or one for each channel.

    Or they are the tokens that the tokenizer of a file makes of text, at most `length` of a sample.
    """

    range: tuple[float, float] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: Layout | None = None
    length: int | None = None
    tokenizer: str | None = None

    @property
    def scaled(self) -> bool:
        """Whether it says anything of the values."""
        return self.range is not None or bool(self.mean or self.std)

    def affine(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """What pixels in [0, 1] are multiplied by and shifted by, one number or one for each channel."""
        if self.range is not None:
            low, high = self.range
            return (high - low,), (low,)
        std, mean = self.std or (1.0,), self.mean or (0.0,)
        count = max(len(std), len(mean))
        mean, std = mean * (count // len(mean)), std * (count // len(std))
        return tuple(1 / s for s in std), tuple(-m / s for m, s in zip(mean, std, strict=True))

    def __str__(self) -> str:
        numbers = {"mean": self.mean, "std": self.std}
        parts = [f"{key}={'/'.join(f'{v:g}' for v in values)}" for key, values in numbers.items() if values]
        if self.range is not None:
            parts.append(f"range={self.range[0]:g}..{self.range[1]:g}")
        rest = {"layout": self.layout, "length": self.length, "tokenizer": self.tokenizer}
        return ",".join([*parts, *(f"{key}={value}" for key, value in rest.items() if value)])


@dataclass(frozen=True)
class InputSpec:
    """One input: `shape` has an int for each fixed axis and a symbol for each dynamic one."""

    name: str
    dtype: np.dtype
    shape: tuple[int | str, ...]
    stated: StatedInput | None = None  # by the user

    @property
    def is_float(self) -> bool:
        """True for every floating-point type, bfloat16 included."""
        return is_float(self.dtype)

    def sizes(self, dims: Mapping[str, int]) -> tuple[int, ...]:
        """The shape with symbols replaced; raises `InputError` for a symbol without a value."""
        sizes = []
        for size in self.shape:
            value = size if isinstance(size, int) else evaluate(size, dims)
            if value is None:
                raise InputError(f"input {self.name!r}: its axis {size!r} has no size; give one for {size!r}")
            sizes.append(value)
        return tuple(sizes)


def image_axis(spec: InputSpec, dims: Mapping[str, int]) -> int | None:
    """The axis of an image-like input's channels: as stated, or 1, 3 or 4 channels first or last; None for another."""
    if spec.stated is not None and spec.stated.layout is not None:
        return spec.stated.layout.index("C")
    if len(spec.shape) != 4 or not (spec.is_float or spec.dtype.itemsize == 1):
        return None
    sizes = spec.sizes(dims)
    axis = next((a for a in (1, 3) if sizes[a] in (1, 3, 4)), None)
    others = [s for a, s in enumerate(sizes[1:], 1) if a != axis]
    return axis if axis is not None and min(others) > 4 else None


def is_float(dtype: np.dtype | type) -> bool:
    """True for every floating-point type, those of ml_dtypes included.

    >>> import ml_dtypes
    >>> is_float(np.float16), is_float(ml_dtypes.bfloat16), is_float(np.int64)
    (True, True, False)
    """
    dtype = np.dtype(dtype)
    return bool(np.issubdtype(dtype, np.floating)) or "float" in dtype.name


def input_specs(model: onnx.ModelProto) -> list[InputSpec]:
    """The inputs that have to be fed (initialisers listed as inputs are left out).

    A dynamic axis without a name is called `<input>.<axis>`; 0 and -1 are how some exporters write one. Raises
    `InputError` for inputs that are not tensors and inputs without a rank.
    """
    from onnx.helper import tensor_dtype_to_np_dtype

    weights = {tensor.name for tensor in model.graph.initializer}
    specs = []
    for value in model.graph.input:
        if value.name in weights:
            continue
        if value.type.WhichOneof("value") != "tensor_type" or not value.type.tensor_type.elem_type:
            raise InputError(f"input {value.name!r} is not a tensor; only tensor inputs can be fed")
        tensor = value.type.tensor_type
        if not tensor.HasField("shape"):
            raise InputError(f"input {value.name!r} has no rank; give it a shape before pruning")
        shape: list[int | str] = []
        for axis, dim in enumerate(tensor.shape.dim):
            fixed = dim.HasField("dim_value") and dim.dim_value > 0
            shape.append(int(dim.dim_value) if fixed else dimension_name(value.name, axis, dim.dim_param))
        dtype = np.dtype(tensor_dtype_to_np_dtype(tensor.elem_type))
        specs.append(InputSpec(value.name, dtype, tuple(shape)))
    return specs


def dimension_name(tensor: str, axis: int, given: object) -> str:
    """The name of a dynamic dimension: its own, or one made of the input and the axis.

    Text without a letter or digit, such as the `?` that some exporters write, names nothing: two axes of an image may
    both be called so.
    """
    text = given.strip() if isinstance(given, str) else ""
    return text if any(c.isalnum() for c in text) else f"{tensor}.{axis}"


def make_inputs(
    specs: Sequence[InputSpec], dims: Mapping[str, int], seed: int = 0, *, max_token: int = MAX_TOKEN
) -> dict[str, np.ndarray]:
    """Random inputs: standard normal floats, integers in [0, max_token), masks and lengths of one.

    Strings are all "text". 8-bit inputs of rank 3 and more are images and get their full range. The same seed
    gives the same values for an input whatever the others are.
    """
    feed = {}
    for spec in specs:
        rng = np.random.default_rng([seed, zlib.crc32(spec.name.encode())])
        feed[spec.name] = _random(spec, spec.sizes(dims), rng, max_token)
    return feed


def _random(spec: InputSpec, shape: tuple[int, ...], rng: np.random.Generator, max_token: int) -> np.ndarray:
    name, dtype = spec.name.lower(), spec.dtype
    if dtype == np.dtype(object) or dtype.kind in "SU":
        return np.full(shape, "text", dtype=object)
    if "mask" in name:
        return np.ones(shape, dtype)
    if spec.is_float:
        return rng.standard_normal(shape).astype(np.float32).astype(dtype)
    if dtype.kind == "c":
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)
    if dtype == np.dtype(bool):
        return np.asarray(rng.random(shape) < 0.5)
    if re.search(r"len(gth)?s?$", name) and len(shape) <= 1:
        return np.ones(shape, dtype)
    if dtype.itemsize == 1 and dtype.kind in "iu" and len(shape) >= 3:
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max + 1, shape).astype(dtype)
    return rng.integers(0, max_token, shape).astype(dtype)


def evaluate(symbol: str, dims: Mapping[str, int]) -> int | None:
    """The value of a symbol, or of a sum of symbols and integers such as `past_length + 1`."""
    if symbol in dims:
        return dims[symbol]
    total = 0
    for part in (part.strip() for part in symbol.split("+")):
        if part.isdecimal():
            total += int(part)
        elif part in dims:
            total += dims[part]
        else:
            return None
    return total
