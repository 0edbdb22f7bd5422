"""Inputs on which two models are compared: drawn from what the graph says of them, several draws and sizes.

A proof on inputs that exercise nothing is none: an index goes over all rows of its table, the last one included, tokens
differ along the sequence, masks hide some positions in one draw and none in another. Every feed has run in the original
model; outputs that stay constant are tried to be moved by other draws.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from hwpass.data.domains import Domain
from hwpass.data.sizes import Sizing
from hwpass.errors import InputError
from hwpass.model.model import Model
from hwpass.runtime.dimensions import search_sizes, unusable
from hwpass.runtime.inputs import MAX_TOKEN, InputSpec, is_float
from hwpass.runtime.memory import release_memory
from hwpass.runtime.sessions import Feed, ModelLike, open_session, run_session

if TYPE_CHECKING:
    import onnxruntime as ort

Floats = Literal["normal", "unit", "bytes", "wide", "small"]

#: Feeds that a proof is made on, as far as memory allows.
DRAWS = 3

#: An output that varies by less of its magnitude is a constant.
CONSTANT = 1e-6


@dataclass(frozen=True)
class Draw:
    """How values are drawn. `limit` bounds integers, of the input `only` where that is given."""

    number: int
    floats: Floats = "normal"
    ones: bool = False  # masks hide nothing, and lengths are whole
    limit: int | None = None
    only: str = ""
    units: bool = False  # floats of a single element are 1
    first: bool = False  # of the numbers that a single one is compared with it is the first

    def __str__(self) -> str:
        words = [f"integers below {self.limit}{f' in {self.only!r}' if self.only else ''}" if self.limit else ""]
        words += ["the first of compared numbers" if self.first else "", "masks of ones" if self.ones else ""]
        words += ["single numbers of 1" if self.units else ""]
        return ", ".join(w for w in words if w) or "values over the whole range"


@dataclass
class ProofInputs:
    """Feeds, the original's outputs on each of them, and the sizes of the dynamic axes in each."""

    feeds: list[Feed] = field(default_factory=list)
    outputs: list[Feed] = field(default_factory=list)
    sizes: list[dict[str, int]] = field(default_factory=list)


def proof_feeds(
    original: ModelLike,
    specs: Sequence[InputSpec],
    *,
    model: Model | None = None,
    session: ort.InferenceSession | None = None,
    seed: int = 0,
    threads: int = 1,
    draws: int = DRAWS,
) -> list[Feed]:
    """The feeds of `proof_inputs`."""
    return proof_inputs(original, specs, model=model, session=session, seed=seed, threads=threads, draws=draws).feeds


def proof_inputs(
    original: ModelLike,
    specs: Sequence[InputSpec],
    *,
    model: Model | None = None,
    session: ort.InferenceSession | None = None,
    seed: int = 0,
    threads: int = 1,
    draws: int = DRAWS,
) -> ProofInputs:
    """At least `draws` feeds that the original runs on, at several sizes of its dynamic axes; the same for a seed.

    `specs` are the inputs to feed. `model` is the original or one prepared from it, already loaded, whose graph says
    what inputs mean; `session` one of the original. Raises `InputError` that says what was tried when nothing runs.
    """
    if model is None:
        model = Model.load(original)
    own = open_session(original, threads=threads, level="lean") if session is None else session
    try:
        return _Search(own, Maker(specs, Sizing(model), seed), draws).run()
    finally:
        del own
        release_memory()


class Maker:
    """Makes the feed of a draw at given sizes, whatever the others are."""

    def __init__(self, specs: Sequence[InputSpec], sizing: Sizing, seed: int) -> None:
        self.specs, self.sizing, self.seed = specs, sizing, seed

    def feed(self, dims: Mapping[str, int], draw: Draw) -> Feed:
        """One feed."""
        known = self.sizing.domains(dims)
        shapes = {spec.name: spec.sizes(dims) for spec in self.specs}
        return {spec.name: self._value(spec, shapes, known.get(spec.name), draw) for spec in self.specs}

    def _value(
        self, spec: InputSpec, shapes: Mapping[str, tuple[int, ...]], domain: Domain | None, draw: Draw
    ) -> NDArray[Any]:
        shape, dtype = shapes[spec.name], spec.dtype
        rng = np.random.default_rng([self.seed, draw.number, zlib.crc32(spec.name.encode())])
        if dtype == np.dtype(object) or dtype.kind in "SU":
            return np.full(shape, "text", dtype=object)
        if domain is not None:
            limit = draw.limit if draw.only in ("", spec.name) else None
            return self._known(spec, shapes, domain, replace(draw, limit=limit), rng).astype(dtype)
        if spec.is_float:
            return _floats(shape, draw, rng).astype(np.float32).astype(dtype)
        if dtype.kind == "c":
            return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)
        if dtype == np.dtype(bool):
            return np.asarray(rng.random(shape) < 0.5) if shape else np.asarray(draw.number % 2 == 0)
        if dtype.itemsize == 1 and dtype.kind in "iu" and len(shape) >= 3:
            limits = np.iinfo(dtype)
            return rng.integers(limits.min, limits.max + 1, shape).astype(dtype)
        most = draw.limit if draw.limit and draw.only in ("", spec.name) else MAX_TOKEN
        return rng.integers(0, most, shape).astype(dtype)

    def _known(
        self,
        spec: InputSpec,
        shapes: Mapping[str, tuple[int, ...]],
        domain: Domain,
        draw: Draw,
        rng: np.random.Generator,
    ) -> NDArray[Any]:
        shape = shapes[spec.name]
        if domain.kind == "mask":
            if draw.ones or not shape:
                return np.ones(shape)
            counts = self._counts(shape[0] if len(shape) > 1 else 1, shape[-1], draw)
            places = np.arange(shape[-1]) < counts.reshape(-1, *[1] * (len(shape) - 1))
            return np.broadcast_to(places if len(shape) > 1 else places[0], shape)
        if domain.kind == "length":
            longest = self._described(spec, shapes)
            counts = self._counts(max(int(np.prod(shape)), 1), longest, draw)
            return np.full(shape, longest) if draw.ones else counts.reshape(shape)
        if domain.kind == "choice":
            rows = np.asarray(domain.choices)
            if not shape or shape == (1,):  # such as a sample rate
                return np.full(shape, rows[(0 if draw.first else draw.number) % len(rows)])
            return rng.choice(rows, shape)
        high = domain.high if draw.limit is None else min(domain.high, domain.low + draw.limit - 1)
        values = rng.integers(domain.low, high + 1, shape)
        if values.size > 1 or draw.number % 2:
            values.reshape(-1)[rng.integers(values.size) :][:1] = high  # the last row counts like any other
        return values

    def _counts(self, rows: int, length: int, draw: Draw) -> NDArray[np.int64]:
        """How many positions of each row are valid: most of them, in falling order; the same for all inputs."""
        rng = np.random.default_rng([self.seed, draw.number, length])
        counts = np.sort(rng.integers(-(-length // 2), length + 1, rows))[::-1]
        if rows > 1:
            counts[0] = length
        return np.maximum(counts, min(length, 1))

    def _described(self, spec: InputSpec, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """The extent of the axis that an input of lengths is about: behind the batch of another input."""
        stem = spec.name.lower().split("len")[0].strip("_.")
        others = [o for o in self.specs if o.name != spec.name and len(o.shape) > 1]
        others = [o for o in others if not spec.shape or spec.shape[0] in o.shape]
        likely = [o for o in others if stem and o.name.lower().startswith(stem)] or others
        sizes = []
        for other in likely:
            batch = other.shape.index(spec.shape[0]) if spec.shape else 0
            rest = [a for a in range(len(other.shape)) if a != batch]
            dynamic = [a for a in rest if isinstance(other.shape[a], str)]
            sizes.append(shapes[other.name][(dynamic or rest)[0]])
        return max(min(sizes, default=1), 1)


def _floats(shape: tuple[int, ...], draw: Draw, rng: np.random.Generator) -> NDArray[Any]:
    if draw.units and int(np.prod(shape)) == 1:
        return np.ones(shape)
    if draw.floats == "unit":
        return rng.random(shape)
    if draw.floats == "bytes" and len(shape) == 4:
        return 255 * rng.random(shape)
    scale = {"wide": 8.0, "small": 0.1}.get(draw.floats, 1.0)
    return scale * rng.standard_normal(shape)


class _Search:
    """Finds draws and sizes that run, and keeps the outputs of those that did."""

    def __init__(self, session: ort.InferenceSession, maker: Maker, draws: int) -> None:
        self.session, self.maker, self.draws = session, maker, draws
        self.found: dict[tuple[int, tuple[tuple[str, int], ...]], tuple[Feed, Feed]] = {}
        self.manner = Draw(0)  # what is to be given up for the model to run
        self.tried: list[str] = []
        self.failure = ""

    def run(self) -> ProofInputs:
        """The feeds."""
        specs = self.maker.specs
        try:
            sizes = search_sizes(specs, self._runs, "small", max(self.draws, 1), self.maker.sizing.fits)
        except InputError as error:
            raise InputError(unusable(specs, self.failure or str(error), [str(error), *self.tried])) from error
        made = ProofInputs()
        for number in range(max(self.draws, len(sizes))):
            dims = sizes[number % len(sizes)]
            pair = self._drawn(dims, number)
            if pair is not None:
                made.feeds.append(pair[0])
                made.outputs.append(pair[1])
                made.sizes.append(dims)
        self._moved(made)
        return made

    def _runs(self, dims: Mapping[str, int]) -> bool:
        return self._drawn(dims, len({key for _, key in self.found}), first=True) is not None

    def _drawn(self, dims: Mapping[str, int], number: int, first: bool = False) -> tuple[Feed, Feed] | None:
        key = tuple(sorted(dims.items()))
        at = [pair for (_, where), pair in self.found.items() if where == key]
        if first and at:
            return at[0]
        draw = replace(self.manner, number=number, floats=self._kind(number), ones=self.manner.ones or number % 3 == 1)
        if not first:
            known = next((pair for (n, where), pair in self.found.items() if where == key and n == number), None)
            if known is not None:
                return known
        for attempt in self._attempts(draw):
            pair = self._try(dims, attempt)
            if pair is not None:
                self.manner = replace(
                    attempt,
                    first=self.manner.first or attempt.first,
                    ones=self.manner.ones or (attempt.ones and not draw.ones),
                )
                self.found[number, key] = pair
                return pair
        return None

    def _kind(self, number: int) -> Floats:
        return ("normal", "unit", "bytes")[number] if number < 3 else "normal"

    def _attempts(self, draw: Draw) -> Iterator[Draw]:
        """A draw, and what to give up of it, the least first."""
        yield draw
        if draw.floats != "normal":
            yield replace(draw, floats="normal")
        draw = replace(draw, floats="normal")
        if not draw.ones:
            yield replace(draw, ones=True)
        if not draw.first:
            yield replace(draw, first=True)
        draw = replace(draw, first=True)
        whole = [spec.name for spec in self.maker.specs if spec.dtype.kind in "iu"]
        if any(spec.is_float and int(np.prod([s for s in spec.shape if isinstance(s, int)])) == 1 and
               all(isinstance(s, int) for s in spec.shape) for spec in self.maker.specs):  # fmt: skip
            yield replace(draw, ones=True, units=True)
        for limit in (16, 2, 1) if whole else ():
            for name in whole if len(whole) > 1 else ():
                yield replace(draw, ones=True, limit=limit, only=name)
            yield replace(draw, ones=True, limit=limit, units=True)

    def _try(self, dims: Mapping[str, int], draw: Draw) -> tuple[Feed, Feed] | None:
        feed = self.maker.feed(dims, draw)
        what = str(draw)
        if what not in self.tried:
            self.tried.append(what)
        try:
            outputs = run_session(self.session, feed)
        except InputError as error:
            self.failure = self.failure or str(error)
            return None
        if draw.floats == "bytes" and not _finite(outputs):
            return None
        return feed, outputs

    def _moved(self, made: ProofInputs) -> None:
        """Where an output is constant, put draws in place of the last ones on which it is not."""
        if len(made.feeds) < 2 or not any(v < CONSTANT for v in variation(made.outputs).values()):
            return
        base = replace(self.manner, number=len(made.feeds))
        styles = [
            replace(base, floats="wide"), replace(base, floats="unit", ones=True), replace(base, floats="bytes"),
            replace(base, limit=MAX_TOKEN), replace(base, floats="small", limit=2, ones=True),
        ]  # fmt: skip
        best = _moving(made.outputs)
        for number, style in enumerate(styles):
            pairs = [(i, self._try(made.sizes[i], replace(style, number=base.number + 2 * number + i)))
                     for i in range(1, len(made.feeds))][-2:]  # fmt: skip
            outputs = list(made.outputs)
            for i, pair in pairs:
                outputs[i] = pair[1] if pair is not None else outputs[i]
            if _moving(outputs) > best:
                best = _moving(outputs)
                for i, pair in pairs:
                    if pair is not None:
                        made.feeds[i], made.outputs[i] = pair


def _moving(outputs: Sequence[Feed]) -> tuple[int, float]:
    """How many outputs are no constants, and the least that one of the others varies."""
    found = variation(outputs)
    return sum(v >= CONSTANT for v in found.values()), min(found.values(), default=0.0)


def _finite(outputs: Feed) -> bool:
    return all(np.isfinite(v.astype(np.float64)).all() for v in outputs.values() if is_float(v.dtype))


def variation(outputs: Sequence[Mapping[str, np.ndarray]]) -> dict[str, float]:
    """How much each output varies over feeds and positions, as a share of its magnitude; about 0: a constant.

    Every axis may be the one of channels, which differ without any input being looked at: the least variation counts
    that is left when an axis is held. NaN and text count as constant.
    """
    found = {}
    for name in dict.fromkeys(name for feed in outputs for name in feed):
        values = [np.asarray(feed[name]) for feed in outputs if name in feed]
        values = [v.astype(np.float64) for v in values if v.size and (v.dtype.kind in "iub" or is_float(v.dtype))]
        found[name] = _varied(values) if values else 0.0
    return found


def _varied(values: list[NDArray[np.float64]]) -> float:
    values = [np.where(np.isfinite(v), v, 0.0) for v in values]
    magnitude = max(float(np.abs(v).max()) for v in values)
    if not magnitude:
        return 0.0
    least = float(np.std(np.concatenate([v.reshape(-1) for v in values])))
    shapes = [v.shape for v in values]
    for axis in range(values[0].ndim if len({len(s) for s in shapes}) == 1 else 0):
        if len({s[axis] for s in shapes}) == 1 and shapes[0][axis] > 1:
            rows = np.concatenate([np.moveaxis(v, axis, -1).reshape(-1, v.shape[axis]) for v in values])
            least = min(least, float(rows.std(axis=0).max()))
    return least / magnitude
