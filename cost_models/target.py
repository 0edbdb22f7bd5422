"""What a target is: the schema of its TOML file, and how one is found and read.

A target is data. Every figure in it has a source: the `[sources]` table mirrors the keys of the file, and one
entry for a whole table (`peak = "..."`) covers everything under it. A figure without a source does not load.
Nothing in a target is evaluated, and no file is read but its own.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from hwpass.errors import InputError, UsageError
from hwpass.figures import brief, shown, shown_path
from hwpass.files.data_files import read_data

#: No figure is larger, and no rate smaller than its inverse: beyond that, predictions overflow or divide by nothing.
HUGE = 1e15
#: Bytes of the largest target file that is read; those that come with hwpass take 6 KiB.
LARGEST = 1 << 18


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

#: A key of more than 32 parts: the TOML parser takes quadratic time for it, and no target has one.
_LONG_KEY = re.compile(r"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){32}""")

#: Widths of the number formats a target may give a peak for, bytes.
DTYPE_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}

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


class Target(_Table):
    """A hardware target with its runtime, as read from a TOML file.

    `layout` and `constants` belong to the model class named by `model`, which says what keys it needs;
    everything else means the same for every class.
    """

    name: Name
    description: Text
    model: Name  #: the registered cost model class that interprets this file
    runtime: Name  #: the runtime (and its settings) that the figures describe
    threads: Count = 1
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
    energy: Energy
    limits: dict[str, Positive] = {}  #: hard limits, e.g. memory_bytes
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
        for number, chain in enumerate(self.fusion):
            if len(chain) < 2:
                raise ValueError(f"fusion.{number}: expected a chain of at least two operators")
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
        figures = set(_leaves(self.model_dump(exclude={"sources"}, exclude_unset=True, exclude_none=True)))
        given = dict(_texts(self.sources))
        for key in sorted(figures):
            if not any(key == covered or key.startswith(covered + ".") for covered in given):
                raise ValueError(f"sources.{key}: missing; every figure needs a source")
        for key, text in given.items():
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"sources.{key}: expected a text that says where the figure comes from")
            if not any(figure == key or figure.startswith(key + ".") for figure in figures):
                raise ValueError(f"sources.{key}: there is no such figure in this file")

    def source(self, key: str) -> str:
        """The source of a figure by its dotted key, such as `memory.L2.bandwidth_gbs`; KeyError when
        unknown."""
        given = dict(_texts(self.sources))
        while key not in given:
            if "." not in key:
                raise KeyError(key)
            key = key.rpartition(".")[0]
        return str(given[key])


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted keys of everything that is a figure: numbers, and the fusion rules."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) or key == "fusion":
            yield prefix + key


def _texts(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _texts(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def target_names() -> list[str]:
    """Names of the targets that come with hwpass, sorted.

    >>> "server-cpu" in target_names()
    True
    """
    folder = resources.files(__package__) / "targets"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_target(name_or_path: str | os.PathLike[str] | Target) -> Target:
    """Read a target by its name, or from a file when a path is given or the text ends in `.toml`; a Target is itself.

    Raises UsageError for an unknown name, InputError for a file that is missing, unreadable or malformed; the
    message is one line that names the line or the key.
    """
    if isinstance(name_or_path, Target):
        return name_or_path
    if not isinstance(name_or_path, str | os.PathLike):
        raise UsageError(f"target: a {type(name_or_path).__name__} is neither a name nor a file that ends in .toml")
    name = os.fsdecode(name_or_path)
    if not isinstance(name_or_path, str) or name.lower().endswith(".toml"):
        return parse_target(read_data(name, "target file", LARGEST), name)
    names = target_names()
    if name not in names:
        near = difflib.get_close_matches(name[:80].lower(), names, n=1, cutoff=0.0)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise UsageError(
            f"unknown target '{shown(name)}': {hint}`hwpass targets` lists them, or give a file that ends in .toml"
        )
    file = f"{name}.toml"
    text = (resources.files(__package__) / "targets" / file).read_text(encoding="utf-8")
    return parse_target(text, file)


def parse_target(text: str, origin: str = "target") -> Target:
    """A Target from the text of a TOML file; `origin` names it in errors. Raises InputError in one line."""
    origin = shown_path(origin)
    if len(text) > LARGEST:
        raise InputError(f"{origin}: larger than {LARGEST >> 10} KiB, which no target is")
    long = _LONG_KEY.search(text)
    if long is not None:
        line = text.count("\n", 0, long.start()) + 1
        raise InputError(f"{origin}: not a target: a key of more than 32 parts (at line {line})")
    try:
        return Target.model_validate(tomllib.loads(text.removeprefix("\ufeff")))
    except ValidationError as error:
        known = [key for table in (Target, MemoryLevel, Energy) for key in table.model_fields]
        raise InputError(f"{origin}: {first_complaint(error, known=known)}") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{origin}: not valid TOML: {shown(str(error), 200)}") from error
    except RecursionError:
        raise InputError(f"{origin}: not a target: tables or brackets are nested too deeply") from None
    except ValueError:  # Python's own, about a value
        raise InputError(f"{origin}: not valid TOML: an integer of thousands of digits, or no date") from None


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
