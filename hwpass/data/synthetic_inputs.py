"""Calibration data from nothing: inputs made up from what the model itself states.

Its inputs say whether they are images, signals, tokens or masks; its first operators, or the statistics that its batch
normalisations remember, say on which scale.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hwpass.data.dead_leaves import dead_leaves, pink_noise
from hwpass.data.input_scale import (
    LEAST_TOLD,
    TOLD,
    Assumed,
    Feeds,
    Scale,
    assumed_map,
    assumed_scale,
    class_scores,
    information,
)
from hwpass.data.proof_inputs import Draw
from hwpass.data.proof_inputs import Maker as FeedMaker
from hwpass.data.sizes import Sizing
from hwpass.errors import InputError, UsageError, option
from hwpass.model.model import Model
from hwpass.runtime.array_files import Spool
from hwpass.runtime.calibration import APART, ENOUGH, Calibration, load_calibration
from hwpass.runtime.dimensions import typical_dimensions
from hwpass.runtime.inputs import MAX_TOKEN, InputSpec, StatedInput, image_axis, input_specs, make_inputs
from hwpass.runtime.memory import release_memory
from hwpass.runtime.sessions import Feed, open_session, run_session
from hwpass.spans import span

if TYPE_CHECKING:
    import onnxruntime as ort

#: Samples made, as far as the bounds below allow; thousands of inputs of a wide layer want as many rows.
SAMPLES = 1024
FEWEST = 32
#: Multiply-accumulates of one pass over all samples, and bytes of the samples.
MACS = 1e12
BYTES = 256 << 20

#: Where a model tells classes apart, so many times as many inputs are made, of which as many of each class are kept.
POOL = 6
#: Multiply-accumulates and values of the inputs that choosing among them may take.
POOL_MACS, POOL_VALUES = 1e11, 1 << 24
#: Classes are balanced where each would have so many inputs.
FEWEST_EACH = 4
#: Of what there is to know of the class, the share that made-up inputs should tell.
HARDLY = 0.2
#: Multiply-accumulates of one pass over the inputs that judge.
JUDGING_MACS = 2e11
#: Inputs that a model is surer of are all alike: the first made are kept.
SURE = 0.95

#: Rows of features of so many positions and features may be maps: pictures read row by row, spectrograms.
MAP_SIDE = 8

#: Inputs longer than this are signals over time, not features.
SIGNAL = 200


@dataclass(frozen=True)
class Synthetic:
    """Made-up calibration data, in words what they are, and why they may say little to the model ("" for no reason).

    `apart` are others of the same kind, to judge by; None where running the model on them takes too long, or it hardly
    tells these inputs apart.
    """

    calibration: Calibration
    what: str
    doubt: str = ""
    apart: Calibration | None = None


@span("made-up inputs")
def synthesise(
    model: Model,
    original: Callable[[], Model] | None = None,
    *,
    macs: float = 0.0,
    seed: int = 0,
    threads: int = 1,
    stated: Mapping[str, StatedInput] | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Synthetic | None:
    """Inputs for a model, the same for the same seed; None when none that were tried run.

    `original` gives the model before its batch normalisations were folded; `macs` is what one sample takes. `stated` is
    what the user says of inputs, by name.
    """
    progress("making inputs")
    specs = [replace(spec, stated=(stated or {}).get(spec.name)) for spec in input_specs(model.interface())]
    try:
        sizing = Sizing(model)
        dims = typical_dimensions(model.proto(), seed=seed, threads=threads, fits=sizing.fits)
        maker = _Maker(specs, dims, seed, sizing)
        session = open_session(model.proto(), threads=threads, level="lean")
        for limit in (None, MAX_TOKEN, 2, 1):  # positions and token types have short tables of their own
            maker.limit = limit
            try:
                run_session(session, maker.feed(0))
                break
            except InputError:
                if limit == 1:
                    raise
        maker.assume(model, (lambda: model) if original is None else original, threads, macs)
        values = [np.asarray(value) for value in maker.feed(0).values()]
        size = sum(value.nbytes for value in values)
        count = int(np.clip(min(SAMPLES, MACS / max(macs, 1.0), BYTES / max(size, 1)), FEWEST, SAMPLES))
        every = count + count // (APART - 1)  # a part of them is set apart
        pool = int(min(POOL * every, POOL_MACS / max(macs, 1.0), POOL_VALUES / sum(value.size for value in values)))
        numbers, balanced = _balanced(maker, session, every, pool)
        spool = Spool()

        def data(numbers: list[int]) -> Calibration:
            feeds = ({name: spool.put(value) for name, value in maker.feed(i).items()} for i in sorted(numbers))
            return load_calibration(feeds, specs)

        doubt = _doubt([run_session(session, maker.feed(i)) for i in range(min(count, TOLD))])
        judging = numbers[APART - 1 :: APART]
        learned = [number for place, number in enumerate(numbers) if place % APART != APART - 1]
        judged = not doubt and len(numbers) >= ENOUGH and len(judging) * macs <= JUDGING_MACS
        what = maker.words(len(learned), balanced)
        return Synthetic(data(learned), what, doubt, data(judging) if judged else None)
    except InputError:
        return None
    finally:
        release_memory()


def _doubt(outputs: list[Feed]) -> str:
    """Whether a model that tells classes apart hardly does so with the inputs that were made up."""
    scores = class_scores(outputs)
    if scores is None or information(scores) >= HARDLY * math.log(scores.shape[1]):
        return ""
    share = float(np.bincount(scores.argmax(axis=1)).max() / len(scores))
    return (
        f"the model hardly tells the inputs apart that were made up for it (one class in {share:.0%} of them): what is "
        f"kept may be far from what matters; give real inputs with {option('calib')}"
    )


def _balanced(maker: _Maker, session: ort.InferenceSession, count: int, pool: int) -> tuple[list[int], bool]:
    """Which of `pool` made-up inputs are used: of each class as many, those first that the model is surest of. Numbers,
    class by class.

    The first `count` where the model tells no classes apart, or there are too many or too few of something.
    """
    first = list(range(count)), False
    if pool < 2 * count:
        return first
    scores = []
    for number in range(pool):
        found = class_scores([run_session(session, maker.feed(number))])
        if found is None or len(found) != 1 or found.shape[1] * FEWEST_EACH > count:
            return first
        scores.append(found[0])
    told = np.stack(scores)
    if information(told) < LEAST_TOLD:
        return first
    share = count // told.shape[1]
    sure = np.minimum(told.max(axis=1), SURE)
    order = np.argsort(-sure, kind="stable")
    places = [order[told.argmax(axis=1)[order] == label] for label in range(told.shape[1])]
    chosen = [number for own in places for number in own[:share].tolist()]
    taken = set(chosen)
    # Classes that too few inputs were seen in: others make up for them.
    chosen += [number for number in range(pool) if number not in taken][: count - len(chosen)]
    return chosen, True


class _Maker:
    """Makes feed number i, whatever the others are."""

    def __init__(self, specs: list[InputSpec], dims: Mapping[str, int], seed: int, sizing: Sizing) -> None:
        self.specs, self.dims, self.seed = specs, dims, seed
        self.meant = FeedMaker(specs, sizing, seed)
        self.known = sizing.domains(dims)
        said = {
            spec.name: Scale.stated(spec.stated) for spec in specs if spec.stated is not None and spec.stated.scaled
        }
        self.scales = {name: Assumed((scale,), "as stated", True) for name, scale in said.items()}
        self.maps: set[str] = set()  # rows of features that are made as images of one channel
        self.limit: int | None = None

    def assume(self, model: Model, original: Callable[[], Model], threads: int, macs: float) -> None:
        """Settle the scale of images that the user says nothing of, and whether rows of features are maps."""
        for spec in self.specs:
            axis = image_axis(spec, self.dims)
            if not spec.is_float:
                continue

            def feeds(scale: Scale, number: int, name: str = spec.name) -> Feed:
                self.scales[name] = Assumed((scale,), "", False)
                return self.feed(number)

            sizes = spec.sizes(self.dims)
            if axis is not None and spec.name not in self.scales:
                self.scales[spec.name] = assumed_scale(model, original, spec.name, sizes[axis], feeds, threads, macs)
            elif axis is None and len(sizes) == 3 and min(sizes[1:]) >= MAP_SIDE and spec.name not in self.known:
                self._assume_map(model, spec, feeds, threads, macs)

    def _assume_map(self, model: Model, spec: InputSpec, feeds: Feeds, threads: int, macs: float) -> None:
        """Settle whether rows of features are made as maps, and on which scale."""
        said = self.scales.get(spec.name)

        def noise(number: int) -> Feed:
            self.maps.discard(spec.name)
            return self.feed(number)

        self.maps.add(spec.name)
        found = assumed_map(model, noise, feeds, threads, macs, None if said is None else said.scales[0])
        self.maps.discard(spec.name)
        self.scales.pop(spec.name, None)
        if found is not None:
            self.maps.add(spec.name)
            self.scales[spec.name] = found
        elif said is not None:
            self.scales[spec.name] = said

    def feed(self, number: int) -> Feed:
        """One feed at the sizes of the model's dynamic axes."""
        plain = make_inputs(self.specs, self.dims, self.seed + number, max_token=self.limit or MAX_TOKEN)
        meant = self.meant.feed(self.dims, Draw(number, ones=True, first=True, limit=self.limit))
        plain.update({name: meant[name] for name in self.known})
        return {spec.name: self._value(spec, plain[spec.name], number) for spec in self.specs}

    def _value(self, spec: InputSpec, plain: NDArray[Any], number: int) -> NDArray[Any]:
        rng = np.random.default_rng([self.seed, number, zlib.crc32(spec.name.encode())])
        axis = image_axis(spec, self.dims)
        if axis is not None:
            return self._images(spec, plain, rng, axis, number)
        if spec.name in self.maps:
            return self._images(spec, plain[:, None], rng, 1, number)[:, 0]
        said = spec.stated
        if said is not None and said.range is not None and plain.dtype.kind in "iuf":
            return _within(said.range, plain, rng)
        if spec.is_float and plain.ndim >= 2 and spec.name not in self.known:
            long = max(range(1, plain.ndim), key=lambda a: plain.shape[a])
            if plain.shape[long] >= SIGNAL:
                noise = pink_noise(rng, plain.shape, (long,))
                return (noise * rng.uniform(0.02, 0.5)).astype(plain.dtype)
        return plain

    def _images(
        self, spec: InputSpec, plain: NDArray[Any], rng: np.random.Generator, axis: int, number: int
    ) -> NDArray[Any]:
        moved = np.moveaxis(plain, axis, 1)
        images = np.stack([dead_leaves(rng, *moved.shape[1:]) for _ in range(len(moved))])
        known = self.scales.get(spec.name)
        if known is not None:
            scale = known.scales[number % len(known.scales)]
            if len(scale.factor) not in (1, images.shape[1]):
                asked = option("input", f"{spec.name}:{spec.stated}")
                raise UsageError(
                    f"{asked}: there are {len(scale.factor)} numbers for {images.shape[1]} channels; give one, or one "
                    "for each channel"
                )
            images = scale.of(images)
        elif not spec.is_float:
            limits = np.iinfo(plain.dtype)
            images = np.round(images * (limits.max - limits.min) + limits.min)
        return np.moveaxis(images, 1, axis).astype(plain.dtype)

    def words(self, count: int, balanced: bool) -> str:
        """What was made, for the report."""
        kinds = []
        for spec in self.specs:
            known = self.scales.get(spec.name)
            maps = spec.name in self.maps
            if image_axis(spec, self.dims) is None and not maps:
                kinds.append("random values")
            elif known is None:
                kinds.append("dead leaves images")
            else:
                scales = " and ".join(scale.name for scale in known.scales)
                unsure = (
                    "" if known.sure else f"; a guess: state it by {option('input', f'{spec.name}:range=LOW..HIGH')}"
                )
                kinds.append(f"dead leaves {'maps' if maps else 'images'} in {scales}, {known.why}{unsure}")
        chosen = ", as many of each class as could be" if balanced else ""
        return f"{count} synthetic inputs ({'; '.join(sorted(set(kinds)))}){chosen}"


def _within(bounds: tuple[float, float], plain: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Values in a range: whole numbers, signals that fill it, or features anywhere in it."""
    low, high = bounds
    if plain.dtype.kind in "iu":
        return rng.integers(math.ceil(low), math.floor(high), plain.shape, endpoint=True).astype(plain.dtype)
    long = max(range(1, plain.ndim), key=lambda a: plain.shape[a]) if plain.ndim > 1 else 0
    if plain.ndim < 2 or plain.shape[long] < SIGNAL:
        return np.asarray(rng.uniform(low, high, plain.shape)).astype(plain.dtype)
    noise = pink_noise(rng, plain.shape, (long,)) * rng.uniform(0.02, 0.5)
    return np.clip((low + high) / 2 + noise * (high - low) / 2, low, high).astype(plain.dtype)
