"""What a target is: the schema of its TOML file, and how one is found and read.

A target is data. Every figure in it has a source: the `[sources]` table mirrors the keys of the file, and one
entry for a whole table (`peak = "..."`) covers everything under it. A figure without a source does not load.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hwpass.errors import InputError, UsageError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1)]

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

    name: Text
    description: Text
    model: Text  #: the registered cost model class that interprets this file
    runtime: Text  #: the runtime (and its settings) that the figures describe
    threads: Annotated[int, Field(ge=1)] = 1
    clock_ghz: Positive | None = None
    align: Annotated[int, Field(ge=1)]  #: channel step to which pruning rounds by default
    overhead_us: NotNegative  #: fixed cost of one kernel, microseconds
    peak: dict[str, Positive]  #: 1e9 multiply-accumulates per second, by dtype (fp32, fp16, int8)
    memory: dict[str, MemoryLevel]  #: from the fastest level to the largest
    fusion: list[list[Text]]  #: chains of operator types (or FUSION_CLASSES) that run as one kernel
    layout: dict[str, int] = {}  #: lanes, blocks and tiles, in elements
    constants: dict[str, float] = {}  #: fitted figures of the model class
    op_ns: dict[str, NotNegative] = {}  #: ns per element of a kernel, beside memory time, by operator or kind
    fused_ns: dict[str, NotNegative] = {}  #: ns per output that an operator adds when fused behind a product
    energy: Energy
    limits: dict[str, Positive] = {}  #: hard limits, e.g. memory_bytes
    validation: dict[str, Text] = {}  #: what predictions were checked against, and the errors found
    sources: dict[str, Any]  #: where each figure comes from; mirrors the keys above

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
                raise ValueError(
                    f"memory.{name}.capacity_kib: expected more than the level before ({below:g})"
                )
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
    return sorted(
        entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")
    )


def load_target(name_or_path: str) -> Target:
    """Read a target by its name, or from a file when the text ends in `.toml`.

    Raises UsageError for an unknown name, InputError for a file that is missing, unreadable or malformed; the
    message names the line or the key.
    """
    if name_or_path.endswith(".toml"):
        try:
            text = Path(name_or_path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise InputError(f"target file {name_or_path}: {reason}") from error
        return parse_target(text, name_or_path)
    names = target_names()
    if name_or_path not in names:
        near = difflib.get_close_matches(name_or_path.lower(), names, n=1, cutoff=0.0)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise UsageError(
            f"unknown target '{name_or_path}': {hint}`hwpass targets` lists them, or give a .toml file"
        )
    file = f"{name_or_path}.toml"
    text = (resources.files(__package__) / "targets" / file).read_text(encoding="utf-8")
    return parse_target(text, file)


def parse_target(text: str, origin: str = "target") -> Target:
    """A Target from the text of a TOML file; `origin` names it in errors. Raises InputError in one line."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{origin}: not valid TOML: {error}") from error
    try:
        return Target.model_validate(table)
    except ValidationError as error:
        raise InputError(f"{origin}: {first_complaint(error)}") from error


def first_complaint(error: ValidationError, prefix: str = "") -> str:
    """The first thing pydantic found wrong, as `key: what was expected`."""
    first = error.errors(include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    key = prefix + ".".join(str(part) for part in first["loc"])
    if not key:
        return message  # our own validators name the key themselves
    if first["type"] == "missing":
        return f"{key}: missing"
    if first["type"] == "extra_forbidden":
        return f"{key}: no such key"
    return f"{key}: {message[0].lower()}{message[1:]}, got {first['input']!r}"
