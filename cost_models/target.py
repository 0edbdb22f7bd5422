"""What a target is: the schema of its TOML file.

A target is data. Every figure in it has a source: the `[sources]` table mirrors the keys of the file, and one
entry for a whole table (`peak = "..."`) covers everything under it. A figure without a source does not load.
Nothing in a target is evaluated.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from hwpass.errors import UsageError, option
from hwpass.figures import brief, shown

#: No figure is larger, and no rate smaller than its inverse: beyond that, predictions overflow or divide by nothing.
HUGE = 1e15


def _not_tiny(value: float) -> float:
    if value < 1 / HUGE:
        raise ValueError(f"expected at least {1 / HUGE:g}")
    return value


def _one_line(value: str) -> str:
    if not value.isprintable():
        raise ValueError("expected printable characters on one line")
    return value


Positive = Annotated[float, Field(gt=0, le=HUGE, allow_inf_nan=False), AfterValidator(_not_tiny)]
NotNegative = Annotated[float, Field(ge=0, le=HUGE, allow_inf_nan=False)]
Figure = Annotated[float, Field(ge=-HUGE, le=HUGE, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1 << 16)]
Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_one_line)]

#: Widths of the number formats a target may give a peak for, bytes.
DTYPE_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}

#: What `limits` may bound: RAM (activations, and constants that are held there), flash (constants and code), both.
LIMITS = ("ram_bytes", "flash_bytes", "memory_bytes")

#: Words a fusion chain may use beside ONNX operator types.
FUSION_CLASSES = ("activation", "elementwise", "normalization")


class _Table(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class MemoryLevel(_Table):
    """One level of the memory hierarchy as one core sees it."""

    bandwidth_gbs: Positive  #: sustained, 1e9 bytes per second
    capacity_kib: Positive | None = None  #: KiB; absent for the last level, which holds everything
    byte_pj: NotNegative = 0.0  #: picojoules to move one byte to or from this level


class Energy(_Table):
    """The energy figures; pJ per byte stands with each memory level."""

    mac_pj: dict[str, Positive]  #: picojoules per multiply-accumulate, by dtype
    static_w: NotNegative = 0.0  #: watts drawn for as long as the kernel runs


class Fallback(_Table):
    """Who runs the operators that the target cannot, and what it costs to hand tensors over."""

    host: Name  #: the target that runs them
    runs: list[Text] = []  #: operators, class words or kinds of kernel that run here; empty: all that `lacks` leaves
    lacks: list[Text] = []  #: those that do not
    rest: bool = False  #: whether all behind the first operator that does not run here goes to the host with it
    crossing_us: NotNegative = 0.0  #: microseconds to hand one tensor over, either way
    crossing_gbs: Positive | None = None  #: 1e9 bytes per second on the way; absent: nothing beside `crossing_us`


class Footprint(_Table):
    """What memory a runtime takes beside the tensors themselves."""

    align_bytes: Count = 1  #: every buffer is rounded up to a multiple
    channel_align: Count = 1  #: activations are stored with channels rounded up to a multiple
    ram_bytes: NotNegative = 0.0  #: the runtime's own RAM
    flash_bytes: NotNegative = 0.0  #: the runtime's own code and tables
    kernel_ram_bytes: NotNegative = 0.0  #: the runtime's RAM for every kernel that does something
    kernel_flash_bytes: NotNegative = 0.0  #: code and tables for every such kernel
    in_place: list[Text] = []  #: kinds of kernel beside elementwise ones whose output may take its only input's place
    weights: Literal["ram", "flash"] = "ram"  #: where constants are held while the model runs


class Int8(_Table):
    """How the runtime computes on integers of 8 bits, where a model says so by QuantizeLinear and DequantizeLinear.

    The defaults are those of ONNX Runtime on x86. A model that is quantised for the target follows them.
    """

    activations: Literal["uint8", "int8"] = "uint8"  #: the type of activations
    symmetric: bool = False  #: whether activations are quantised around zero, with a zero point in the middle
    weight_bits: Annotated[int, Field(ge=2, le=8)] = 8  #: 7 where sums of two products saturate 16 bits
    products: list[Text] = ["Conv", "MatMul", "Gemm"]  #: operators with weights that have integer kernels
    others: list[Text] = [  #: those that compute on integers between products
        "Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid",
    ]  # fmt: skip
    moving: list[Text] = [  #: those that only move, and keep scale and zero point
        "MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "DepthToSpace", "SpaceToDepth",
    ]  # fmt: skip


class Target(_Table):
    """A hardware target with its runtime, as read from a TOML file.

    `layout` and `constants` belong to the model class named by `model`, which says what keys it needs;
    everything else means the same for every class.
    """

    name: Name
    description: Text
    aliases: list[Name] = []  #: other names that find it
    extends: Name | None = None  #: the target that the rest is taken from: a name, or a file beside this one
    model: Name  #: the registered cost model class that interprets this file
    runtime: Name  #: the runtime (and its settings) that the figures describe
    threads: Count = 1
    dtype: Literal["fp32", "fp16", "int8"] | None = None  #: the format that models are priced in; None: their own
    clock_ghz: Positive | None = None
    align: Count  #: channel step to which pruning rounds by default
    overhead_us: NotNegative  #: fixed cost of one kernel, microseconds
    peak: dict[str, Positive]  #: 1e9 multiply-accumulates per second, by dtype (fp32, fp16, int8)
    memory: dict[str, MemoryLevel]  #: from the fastest level to the largest
    fusion: list[list[Text]]  #: chains of operator types (or FUSION_CLASSES) that run as one kernel
    layout: dict[str, Annotated[int, Field(ge=0, le=1 << 31)]] = {}  #: lanes, blocks and tiles, in elements
    constants: dict[str, Figure] = {}  #: fitted figures of the model class
    op_ns: dict[str, NotNegative] = {}  #: ns per element of a kernel, beside memory time, by operator or kind
    fused_ns: dict[str, NotNegative] = {}  #: ns per output that an operator adds when fused behind a product
    #: how many times as fast products run whose weights have a pattern N:M of zeros along the inputs, by the pattern
    sparse: dict[str, Annotated[float, Field(ge=1, le=16)]] = {}
    energy: Energy
    fallback: Fallback | None = None
    footprint: Footprint = Footprint()
    int8: Int8 = Int8()
    limits: dict[str, Positive] = {}  #: hard limits in bytes, of LIMITS
    #: by kind of kernel, and `network` for what all kernels of a model share: the logarithm of the factor within which
    #: nine of ten latencies lie
    uncertainty: dict[str, NotNegative] = {}
    pipeline: Text | None = None  #: the passes that suit it, as text; None: they follow from its formats
    validation: dict[str, Text] = {}  #: what predictions were checked against, and the errors found
    sources: dict[str, Any]  #: where each figure comes from; mirrors the keys above

    def __repr__(self) -> str:
        return brief(self, self.name, self.description)

    @model_validator(mode="after")
    def _consistent(self) -> Target:
        for key, table in (("peak", self.peak), ("energy.mac_pj", self.energy.mac_pj)):
            unknown = sorted(set(table) - set(DTYPE_BYTES))
            if unknown:
                raise ValueError(f"{key}.{unknown[0]}: expected a dtype of {', '.join(DTYPE_BYTES)}")
        if not self.peak:
            raise ValueError("peak: expected at least one dtype")
        if not self.energy.mac_pj:
            raise ValueError("energy.mac_pj: expected at least one dtype")
        self._check_memory()
        for key in self.sparse:
            n, _, m = key.partition(":")
            if not (n.isdecimal() and m.isdecimal() and 0 < int(n) < int(m)):
                raise ValueError(f"sparse.{shown(key, 40)}: expected N:M with 0 < N < M, such as 2:4")
        for number, chain in enumerate(self.fusion):
            if len(chain) < 2:
                raise ValueError(f"fusion.{number}: expected a chain of at least two operators")
        for key in self.limits:
            if key not in LIMITS:
                raise ValueError(f"limits.{shown(key, 40)}: no such key; expected one of {', '.join(LIMITS)}")
        self._check_sources()
        return self

    def _check_memory(self) -> None:
        if not self.memory:
            raise ValueError("memory: expected at least one level")
        *inner, last = self.memory.items()
        if last[1].capacity_kib is not None:
            raise ValueError(f"memory.{last[0]}.capacity_kib: the last level holds everything, leave it out")
        below = 0.0
        for name, level in inner:
            if level.capacity_kib is None or level.capacity_kib <= below:
                raise ValueError(f"memory.{name}.capacity_kib: expected more than the level before ({below:g})")
            below = level.capacity_kib

    def _check_sources(self) -> None:
        figures = set(leaves(self.model_dump(exclude={"sources"}, exclude_unset=True, exclude_none=True)))
        given = dict(texts(self.sources))
        for key in sorted(figures):
            if not any(key == covered or key.startswith(covered + ".") for covered in given):
                raise ValueError(f"sources.{key}: missing; every figure needs a source")
        for key, text in given.items():
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"sources.{key}: expected a text that says where the figure comes from")
            if not any(figure == key or figure.startswith(key + ".") for figure in figures):
                raise ValueError(f"sources.{key}: there is no such figure in this file")

    def variant(self, dtype: str | None = None, threads: int | None = None) -> Target:
        """The same target with models priced in another number format, or with other threads.

        Raises UsageError for a format that the target does not run.
        """
        changes: dict[str, Any] = {}
        if dtype is not None and dtype not in self.peak:
            known = ", ".join(self.peak)
            raise UsageError(f"{option('dtype', shown(dtype))}: {self.name} has figures for {known}; give one of these")
        if dtype is not None:
            changes["dtype"] = dtype
        if threads is not None:
            changes["threads"] = threads
        return self.model_copy(update=changes) if changes else self

    def source(self, key: str) -> str:
        """The source of a figure by its dotted key, such as `memory.L2.bandwidth_gbs`; KeyError when
        unknown."""
        given = dict(texts(self.sources))
        while key not in given:
            if "." not in key:
                raise KeyError(key)
            key = key.rpartition(".")[0]
        return str(given[key])


def leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted keys of everything that is a figure: numbers, and the fusion rules."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) or key == "fusion":
            yield prefix + key


def texts(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from texts(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def first_complaint(error: ValidationError, prefix: str = "", known: Iterable[str] = ()) -> str:
    """The first thing pydantic found wrong, as `key: what was expected`; `known` are the keys that there are."""
    # A key that is wrong explains the one that is missing.
    first = min(error.errors(include_url=False), key=lambda item: item["type"] != "extra_forbidden")
    message = first["msg"].removeprefix("Value error, ")
    key = prefix + ".".join(shown(part, 40) for part in first["loc"])
    if not key:
        return shown(message, 200)  # our own validators name the key themselves
    if first["type"] == "missing":
        return f"{key}: missing"
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(first["loc"][-1])[:40], list(known), n=1)
        return f"{key}: no such key" + (f"; did you mean {near[0]}?" if near else "")
    return f"{key}: {message[0].lower()}{message[1:]}, got {_given(first['input'])}"


def _given(value: object) -> str:
    return shown(repr(value)) if isinstance(value, str) and len(value) < 80 else shown(value)
