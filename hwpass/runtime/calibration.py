"""Calibration data: checked completely when it is loaded, then read in batches.

The sources are files and folders, each read by what `hwpass.runtime.reader` has for its suffix (an `.npz` has one array
per input, a folder of `.npy` one per input or many for a single one), and any Python iterable of feeds.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from hwpass.errors import InputError, UsageError, option
from hwpass.figures import brief, counted, shown_path
from hwpass.runtime.array_files import Chosen, Held, Rows, Spooled, as_batch, input_names, unknown_input, whole
from hwpass.runtime.dimensions import axis_roles
from hwpass.runtime.inputs import InputSpec, is_float
from hwpass.runtime.reader import rows_from_path

CHECK_BYTES = 16 << 20
"""How much of a file is looked at at a time when its values are checked."""

APART, MOST_APART, ENOUGH = 8, 512, 128
"""One of so many samples is set apart to judge by, and not more than so many; nothing of fewer than so many samples."""


@dataclass(frozen=True)
class Calibration:
    """Checked calibration data.

    `samples` counts along the batch axis. `batch` is the model's own batch size where that is fixed,
    else None. `every` leaves out all but every so many batches, from number `first` on:
    data may be sorted.
    """

    source: str
    samples: int
    batch: int | None
    _segments: tuple[Mapping[str, Rows], ...]
    _constant: Mapping[str, np.ndarray]
    _axes: Mapping[str, int]
    _dtypes: Mapping[str, np.dtype]
    every: int = 1
    first: int = 0

    def __repr__(self) -> str:
        inputs = ", ".join(sorted({*self._constant, *(name for part in self._segments[:1] for name in part)}))
        return brief(self, shown_path(self.source), counted(self.samples, "sample"), f"inputs {inputs}")

    def __len__(self) -> int:
        return -(-self.samples // self.every)

    @property
    def axes(self) -> Mapping[str, int]:
        """The axis that counts samples, of each input that has one."""
        return self._axes

    def split(self) -> tuple[Calibration, Calibration | None]:
        """What to learn from, and samples from all over the data to judge by; None, and all of the data, where there
        are too few for both."""
        if self.samples < ENOUGH or not self._segments:
            return self, None
        every = max(APART, -(-self.samples // MOST_APART))
        learned, apart = (self._part(every, judging) for judging in (False, True))
        least = self.batch or 1
        return (learned, apart) if min(learned.samples, apart.samples) >= least else (self, None)

    def _part(self, every: int, judging: bool) -> Calibration:
        """Samples of which one in `every` is there, or all but that one."""
        segments, before = [], 0
        for segment in self._segments:
            numbers = np.arange(_count(segment))
            numbers = numbers[((numbers + before) % every == every - 1) == judging]
            before += _count(segment)
            if len(numbers):
                segments.append({name: Chosen(rows, numbers) for name, rows in segment.items()})
        return replace(self, samples=sum(map(_count, segments)), _segments=tuple(segments))

    def batches(self, size: int = 32, limit: int | None = None) -> Iterator[dict[str, np.ndarray]]:
        """Feeds of up to `size` samples, in order, `limit` samples in all; can be iterated again.

        A model with a fixed batch gets exactly that size, whatever `size` says; a smaller rest is left out, and a
        limit is taken up to whole batches.
        """
        limit = None if limit is None else limit * self.every
        return islice(self._batches(size, limit), self.first, None, self.every)

    def _batches(self, size: int, limit: int | None) -> Iterator[dict[str, np.ndarray]]:
        step = self.batch or size
        if limit is not None and self.batch is not None:
            limit = -(-limit // self.batch) * self.batch
        left = self.samples if limit is None else min(limit, self.samples)
        pending: list[dict[str, np.ndarray]] = []
        held = 0
        for segment in self._segments:
            count = _count(segment)
            start = 0
            while start < count and left > 0:
                stop = min(start + step - held, start + left, count)
                part = {name: rows.read(start, stop) for name, rows in segment.items()}
                if pending and _tails(part) != _tails(pending[0]):  # another length: cannot be one batch
                    if self.batch is None:
                        yield self._feed(pending)
                    pending, held = [], 0
                    continue
                pending.append(part)
                held += stop - start
                left -= stop - start
                start = stop
                if held == step:
                    yield self._feed(pending)
                    pending, held = [], 0
        if pending and self.batch is None:
            yield self._feed(pending)

    def _feed(self, parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        feed = dict(self._constant)
        for name in parts[0]:
            rows = parts[0][name] if len(parts) == 1 else np.concatenate([part[name] for part in parts])
            rows = np.moveaxis(rows, 0, self._axes[name])
            feed[name] = np.ascontiguousarray(rows.astype(self._dtypes[name], copy=False))
        return feed


def load_calibration(
    data: str | os.PathLike[str] | Mapping[str, Any] | Iterable[Mapping[str, Any]] | np.ndarray,
    specs: Sequence[InputSpec],
) -> Calibration:
    """Check and open calibration data for a model with these inputs.

    `data` is a file (an `.npz`, say) or a folder of `.npy`, a mapping of whole arrays, an iterable of feeds (batches or
    single samples), or, for a model with one input, an array. Raises `InputError`, one line, for all that
    would go wrong later: names, types, ranks, fixed sizes, unequal counts, NaN and Inf, no samples at all.
    """
    if not specs:
        raise InputError("calibration data: the model has no inputs")
    if isinstance(data, str | os.PathLike):
        path = Path(data)
        source = path.name or str(path)
        segments = rows_from_path(path, source, specs)
    else:
        source = "calibration data"
        segments = _from_python(data, source, specs)
    return _checked(source, segments, specs)


def check_statements(data: Any, specs: Sequence[InputSpec]) -> None:
    """What is said of inputs is of files that are read by it: arrays are what they are. Raises UsageError."""
    if any(spec.stated for spec in specs) and not _holds_media(data):
        raise UsageError(
            f"{option('input')} is about made-up inputs, pictures, sounds and text; arrays in {option('calib')} are "
            "taken as they are: leave one out"
        )
    stated = next((s for s in specs if s.stated is not None and (s.stated.tokenizer or s.stated.length)), None)
    if stated is not None and not is_text(data):
        raise UsageError(
            f"{option('input', f'{stated.name}:{stated.stated}')}: there is no text to make tokens of; give "
            f"{option('calib')} a .txt or a folder of them"
        )


def _holds_media(data: Any) -> bool:
    from hwpass.runtime.readers.folder import media_files

    if data is None or is_text(data):
        return True
    try:
        return isinstance(data, str | os.PathLike) and Path(data).is_dir() and bool(media_files(Path(data)))
    except (OSError, ValueError):  # a path that cannot be: reading it says so
        return True


def is_text(data: Any) -> bool:
    """Whether calibration data is text: a file, or a folder of them."""
    from hwpass.runtime.readers.folder import text_files

    try:
        return isinstance(data, str | os.PathLike) and bool(text_files(Path(data)))
    except (OSError, ValueError):  # as above
        return False


def _from_python(data: Any, source: str, specs: Sequence[InputSpec]) -> list[dict[str, Rows]]:
    if isinstance(data, np.ndarray):
        if len(specs) != 1:
            raise InputError(f"{source}: one array, but the model has {len(specs)} inputs; pass a mapping")
        data = {specs[0].name: data}
    if isinstance(data, Mapping):
        return [_arrays(data, source)]
    ranks = {spec.name: len(spec.shape) for spec in specs}
    segments: list[dict[str, Rows]] = []
    try:
        items = iter(data)
    except TypeError as error:
        raise InputError(f"{source}: a {type(data).__name__} is not an iterable of dicts of arrays") from error
    for number, item in enumerate(items):
        if not isinstance(item, Mapping):
            raise InputError(f"{source}: item {number} is a {type(item).__name__}, not a dict of arrays")
        arrays = _arrays(item, f"{source}: item {number}")
        single = all(len(array.shape) == ranks.get(name, -1) - 1 for name, array in arrays.items())
        segments.append({name: as_batch(array, ranks[name]) if single else array for name, array in arrays.items()})
    return segments


def _arrays(data: Mapping[str, Any], source: str) -> dict[str, Rows]:
    arrays: dict[str, Rows] = {}
    for name, value in data.items():
        try:
            arrays[str(name)] = value if isinstance(value, Spooled) else Held(np.asarray(value))
        except Exception as error:  # whatever the value's own conversion raises
            reason = " ".join(str(error).split())[:160]
            raise InputError(f"{source}: {str(name)!r} cannot be made an array: {reason}") from error
    return arrays


def _checked(source: str, segments: list[dict[str, Rows]], specs: Sequence[InputSpec]) -> Calibration:
    axes, batch = _batch_axes(specs)
    batch = _tie(specs, axes, segments, batch)
    constant: dict[str, np.ndarray] = {}
    checked: list[dict[str, Rows]] = []
    samples = 0
    for segment in segments:
        _check_names(source, segment, specs)
        dims: dict[str, tuple[int, str]] = {}
        counts: dict[str, int] = {}
        rows_of: dict[str, Rows] = {}
        for spec in specs:
            rows, axis = segment[spec.name], axes[spec.name]
            _check_shape(source, spec, rows.shape, axis, batch, dims)
            _check_type(source, spec, rows.dtype)
            _check_values(source, spec, rows)
            if axis is None:
                constant[spec.name] = np.asarray(whole(rows).astype(spec.dtype, copy=False), order="C")
                continue
            if axis:
                rows = Held(np.moveaxis(whole(rows), axis, 0))
            rows_of[spec.name], counts[spec.name] = rows, rows.shape[0]
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{name!r} {count}" for name, count in counts.items())
            raise InputError(f"{source}: different numbers of samples: {listed}; every input needs the same")
        if rows_of:
            checked.append(rows_of)
            samples += next(iter(counts.values()))
        else:  # nothing has a batch axis: the one feed is one sample
            samples = 1
    if not samples:
        raise InputError(f"{source}: no samples; give at least one")
    if batch and samples < batch:
        raise InputError(
            f"{source}: {samples} samples, but the model's batch is fixed at {batch}; give at least {batch}"
        )
    if not checked:
        return _Constant(source, 1, None, (), constant, {}, {})
    kept = {name: axis for name, axis in axes.items() if axis is not None}
    dtypes = {spec.name: spec.dtype for spec in specs}
    return Calibration(source, samples, batch, tuple(checked), constant, kept, dtypes)


def _check_names(source: str, segment: Mapping[str, Rows], specs: Sequence[InputSpec]) -> None:
    for name in segment:
        if name not in {spec.name for spec in specs}:
            raise unknown_input(source, name, specs)
    for spec in specs:
        if spec.name not in segment:
            raise InputError(f"{source}: input {spec.name!r} is missing; needed are {input_names(specs)}")


class _Constant(Calibration):
    """Data for a model none of whose inputs has a batch axis: one feed."""

    def batches(self, size: int = 32, limit: int | None = None) -> Iterator[dict[str, np.ndarray]]:
        if limit is None or limit > 0:
            yield dict(self._constant)


def _batch_axes(specs: Sequence[InputSpec]) -> tuple[dict[str, int | None], int | None]:
    """The axis of each input that counts samples (None: one value for all), and the batch if it is fixed."""
    first = next((spec.shape[0] for spec in specs if spec.shape and isinstance(spec.shape[0], str)), None)
    axes: dict[str, int | None] = {}
    if first is not None:
        for spec in specs:
            unnamed = bool(spec.shape) and spec.shape[0] == f"{spec.name}.0"
            axes[spec.name] = spec.shape.index(first) if first in spec.shape else 0 if unnamed else None
        return axes, None
    fixed = next((int(spec.shape[0]) for spec in specs if spec.shape), None)
    for spec in specs:
        axes[spec.name] = 0 if spec.shape and spec.shape[0] == fixed else None
    return axes, fixed


def _tie(
    specs: Sequence[InputSpec], axes: dict[str, int | None], segments: Sequence[Mapping[str, Rows]], batch: int | None
) -> int | None:
    """Find the batch of inputs that have it under another name or none, as the states of recurrent layers do.

    It counts samples where the data has one entry per sample there. Where it has a single one for many samples, these
    can only go one by one: the batch is then 1. Changes `axes`, returns the batch.
    """
    lead = next((spec for spec in specs if axes[spec.name] is not None), None)
    if lead is None or batch is not None or not segments:
        return batch
    roles = axis_roles(specs)
    for spec in specs:
        place = next((a for a, size in enumerate(spec.shape) if roles.get(str(size)) == "batch"), None)
        if len(spec.shape) == 3 and isinstance(spec.shape[0], int) and spec.shape[1] == f"{spec.name}.1":
            place = 1  # [layers, batch, features]
        if axes[spec.name] is not None or place is None:
            continue
        sizes = [(_extent(part, spec, place), _extent(part, lead, axes[lead.name] or 0)) for part in segments]
        if all(own == samples for own, samples in sizes):
            axes[spec.name] = place
        elif all(own == 1 for own, _ in sizes):
            batch = 1
    return batch


def _extent(segment: Mapping[str, Rows], spec: InputSpec, place: int) -> int:
    """The extent of an input's axis in the data; -1 where that has no such axis."""
    shape = segment[spec.name].shape if spec.name in segment else ()
    return shape[place] if place < len(shape) else -1


def _check_shape(
    source: str,
    spec: InputSpec,
    shape: tuple[int, ...],
    axis: int | None,
    batch: int | None,
    dims: dict[str, tuple[int, str]],
) -> None:
    wanted = "[" + ", ".join(map(str, spec.shape)) + "]"
    given = f"{source}: input {spec.name!r} has shape {list(shape)}, the model wants {wanted}"
    if len(shape) != len(spec.shape):
        raise InputError(given)
    for place, (size, want) in enumerate(zip(shape, spec.shape, strict=True)):
        if place == axis:
            continue
        if isinstance(want, int):
            if size != want:
                raise InputError(given)
            continue
        seen, where = dims.setdefault(want, (size, spec.name))
        if seen != size:
            raise InputError(f"{given}; {want!r} is {seen} in input {where!r}")
    if any(size == 0 for size in shape):
        raise InputError(f"{given}: no samples; give at least one")


def _check_type(source: str, spec: InputSpec, dtype: np.dtype) -> None:
    text = dtype.kind in "SUO"
    if dtype == spec.dtype or (text and spec.dtype == np.dtype(object)):
        return
    both_float = is_float(dtype) and spec.is_float
    both_int = dtype.kind in "iu" and spec.dtype.kind in "iu"
    if both_float or both_int:
        return
    mend = f"convert it to {spec.dtype.name}"
    if spec.is_float and dtype.kind in "iub":
        mend += " and scale it as the model was trained"
    raise InputError(f"{source}: input {spec.name!r} is {dtype.name}, the model wants {spec.dtype.name}; {mend}")


def _check_values(source: str, spec: InputSpec, rows: Rows) -> None:
    """NaN, Inf and integers out of range, a part of the data at a time."""
    if not (is_float(rows.dtype) or (rows.dtype.kind in "iu" and rows.dtype != spec.dtype)):
        return
    count = rows.shape[0] if rows.shape else 1
    size = int(np.prod(rows.shape[1:], dtype=np.int64)) * rows.dtype.itemsize
    step = max(1, CHECK_BYTES // max(size, 1))
    for start in range(0, count, step):
        part = rows.read(start, min(start + step, count)) if rows.shape else whole(rows)
        if rows.dtype.kind in "iu":
            limits = np.iinfo(spec.dtype)
            if part.min() < limits.min or part.max() > limits.max:
                raise InputError(f"{source}: input {spec.name!r} has values outside {spec.dtype.name}")
            continue
        with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is looked for
            bad = ~np.isfinite(part.astype(spec.dtype, copy=False).astype(np.float64))
        if bad.any():
            sample = start + int(np.argwhere(bad)[0][0]) if part.ndim else 0
            raise InputError(
                f"{source}: input {spec.name!r} has {int(bad.sum())} values that are NaN, Inf or beyond "
                f"{spec.dtype.name}, the first in row {sample}; remove those samples"
            )


def _count(segment: Mapping[str, Rows]) -> int:
    return next(iter(segment.values())).shape[0]


def _tails(part: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape[1:] for name, array in part.items()}
