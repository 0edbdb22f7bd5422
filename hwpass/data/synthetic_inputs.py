"""Calibration data from nothing: inputs made up from what the model itself states.

Its inputs say whether they are images, signals, tokens or masks; its first operators, or the statistics that its batch
normalisations remember, say on which scale.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hwpass.data.dead_leaves import dead_leaves, pink_noise
from hwpass.data.proof_inputs import Draw
from hwpass.data.proof_inputs import Maker as FeedMaker
from hwpass.data.sizes import Sizing
from hwpass.errors import InputError
from hwpass.model.model import Model
from hwpass.ops import traits_of
from hwpass.runtime.array_files import Spool
from hwpass.runtime.calibration import Calibration, load_calibration
from hwpass.runtime.dimensions import typical_dimensions
from hwpass.runtime.inputs import MAX_TOKEN, InputSpec, input_specs, make_inputs
from hwpass.runtime.memory import release_memory
from hwpass.runtime.sessions import Feed, open_session, run_session

#: Samples made, as far as the bounds below allow; thousands of inputs of a wide layer want as many rows.
SAMPLES = 1024
FEWEST = 32
#: Multiply-accumulates of one pass over all samples, and bytes of the samples.
MACS = 1e12
BYTES = 256 << 20

#: Images that try a scale against the statistics of batch normalisations.
TRIALS = 16

#: Values that an image's pixels may have: the name, and what [0, 1] is multiplied by and shifted by.
SCALES = {"[0, 1]": (1.0, 0.0), "[-1, 1]": (2.0, -1.0), "standardised": (4.4, -2.1), "[0, 255]": (255.0, 0.0)}

#: Inputs longer than this are signals over time, not features.
SIGNAL = 200


@dataclass(frozen=True)
class Synthetic:
    """Made-up calibration data, and in words what they are."""

    calibration: Calibration
    what: str


def synthesise(
    model: Model,
    original: Callable[[], Model] | None = None,
    *,
    macs: float = 0.0,
    seed: int = 0,
    threads: int = 1,
    progress: Callable[[str], None] = lambda text: None,
) -> Synthetic | None:
    """Inputs for a model, the same for the same seed; None when none that were tried run.

    `original` gives the model before its batch normalisations were folded; `macs` is what one sample takes.
    """
    progress("making inputs")
    specs = input_specs(model.interface())
    try:
        sizing = Sizing(model)
        dims = typical_dimensions(model.proto(), seed=seed, threads=threads, fits=sizing.fits)
        maker = _Maker(specs, dims, seed, sizing)
        image = next((spec for spec in specs if _image_axis(spec, dims) is not None and spec.is_float), None)
        if image is not None:
            maker.scale = stated_scale(model, image.name)
            maker.scale = maker.scale or _fitting(model if original is None else original(), maker, threads)
            maker.scale = maker.scale or ("[0, 1]" if _channels(image, dims) == 1 else "standardised")
        session = open_session(model.proto(), threads=threads, level="lean")
        for limit in (None, MAX_TOKEN, 2, 1):  # positions and token types have short tables of their own
            maker.limit = limit
            try:
                run_session(session, maker.feed(0))
                break
            except InputError:
                if limit == 1:
                    raise
        size = sum(np.asarray(value).nbytes for value in maker.feed(0).values())
        count = int(np.clip(min(SAMPLES, MACS / max(macs, 1.0), BYTES / max(size, 1)), FEWEST, SAMPLES))
        spool = Spool()
        feeds = ({name: spool.put(value) for name, value in maker.feed(i).items()} for i in range(count))
        return Synthetic(load_calibration(feeds, specs), maker.words(count))
    except InputError:
        return None
    finally:
        release_memory()


class _Maker:
    """Makes feed number i, whatever the others are."""

    def __init__(self, specs: list[InputSpec], dims: Mapping[str, int], seed: int, sizing: Sizing) -> None:
        self.specs, self.dims, self.seed = specs, dims, seed
        self.meant = FeedMaker(specs, sizing, seed)
        self.known = sizing.domains(dims)
        self.scale: str | None = None
        self.limit: int | None = None

    def feed(self, number: int) -> Feed:
        """One feed at the sizes of the model's dynamic axes."""
        plain = make_inputs(self.specs, self.dims, self.seed + number, max_token=self.limit or MAX_TOKEN)
        meant = self.meant.feed(self.dims, Draw(number, ones=True, first=True, limit=self.limit))
        plain.update({name: meant[name] for name in self.known})
        return {spec.name: self._value(spec, plain[spec.name], number) for spec in self.specs}

    def _value(self, spec: InputSpec, plain: NDArray[Any], number: int) -> NDArray[Any]:
        rng = np.random.default_rng([self.seed, number, zlib.crc32(spec.name.encode())])
        axis = _image_axis(spec, self.dims)
        if axis is not None:
            return self._images(spec, plain, rng, axis)
        if spec.is_float and plain.ndim >= 2 and spec.name not in self.known:
            long = max(range(1, plain.ndim), key=lambda a: plain.shape[a])
            if plain.shape[long] >= SIGNAL:
                noise = pink_noise(rng, plain.shape, (long,))
                return (noise * rng.uniform(0.02, 0.5)).astype(plain.dtype)
        return plain

    def _images(self, spec: InputSpec, plain: NDArray[Any], rng: np.random.Generator, axis: int) -> NDArray[Any]:
        moved = np.moveaxis(plain, axis, 1)
        images = np.stack([dead_leaves(rng, *moved.shape[1:]) for _ in range(len(moved))])
        if spec.is_float:
            factor, shift = SCALES[self.scale or "[0, 1]"]
            images = images * factor + shift
        else:
            limits = np.iinfo(plain.dtype)
            images = np.round(images * (limits.max - limits.min) + limits.min)
        return np.moveaxis(images, 1, axis).astype(plain.dtype)

    def words(self, count: int) -> str:
        """What was made, for the report."""
        scale = f" in {self.scale}" if self.scale and self.scale != "standardised" else ""
        kinds = {f"dead leaves images{scale}" if _image_axis(s, self.dims) is not None else "random values"
                 for s in self.specs}  # fmt: skip
        return f"{count} synthetic inputs ({', '.join(sorted(kinds))})"


def _image_axis(spec: InputSpec, dims: Mapping[str, int]) -> int | None:
    """The channel axis of an image-like input: 1, 3 or 4 channels, first or last; None for another."""
    if len(spec.shape) != 4 or not (spec.is_float or spec.dtype.itemsize == 1):
        return None
    sizes = spec.sizes(dims)
    axis = next((a for a in (1, 3) if sizes[a] in (1, 3, 4)), None)
    others = [s for a, s in enumerate(sizes[1:], 1) if a != axis]
    return axis if axis is not None and min(others) > 4 else None


def _channels(spec: InputSpec, dims: Mapping[str, int]) -> int:
    axis = _image_axis(spec, dims)
    return 0 if axis is None else spec.sizes(dims)[axis]


def _behind(model: Model, name: str) -> Iterator[gs.Node]:
    """The nodes behind an input for as long as each has a single reader: what prepares the input."""
    tensor = next(t for t in model.graph.inputs if t.name == name)
    for _ in range(8):
        if len(tensor.outputs) != 1:
            return
        node = tensor.outputs[0]
        yield node
        tensor = node.outputs[0]


def stated_scale(model: Model, name: str) -> str | None:
    """The scale of an image that the model's own preparation of it gives away: a division by 255, means in bytes.

    A name from SCALES; None where nothing is said.
    """
    for node in _behind(model, name):
        operand = next((t.values for t in node.inputs[1:] if isinstance(t, gs.Constant)), None)
        form = traits_of(node).form
        if (form is not None and form.table) or node.op == "QuantizeLinear" or operand is None:
            return _quantised_scale(node) if node.op == "QuantizeLinear" else None
        if operand.dtype.kind != "f" or not operand.size:
            continue
        size = float(np.abs(operand).max())
        if node.op in ("Div", "Sub", "Add"):
            return "[0, 255]" if size > 4 else "[0, 1]"
        if node.op == "Mul":
            return "[0, 255]" if size < 0.1 else "[0, 1]"
    return None


def _quantised_scale(node: gs.Node) -> str | None:
    """The named scale whose bounds are nearest to those of a quantised input."""
    if not all(isinstance(t, gs.Constant) for t in node.inputs[1:]) or len(node.inputs) < 3:
        return None
    step, zero = (float(t.values.reshape(-1)[0]) for t in node.inputs[1:3])
    limits = np.iinfo(node.inputs[2].values.dtype)
    low, high = (limits.min - zero) * step, (limits.max - zero) * step

    def distance(name: str) -> float:
        factor, shift = SCALES[name]
        return float(abs(np.log(max(high - low, 1e-9) / factor)) + abs(low - shift) / factor)

    return min(SCALES, key=distance)


def _fitting(model: Model, maker: _Maker, threads: int) -> str | None:
    """The scale whose images give the means and variances that the batch normalisations remember best."""
    norms = [n for n in model.graph.nodes if n.op == "BatchNormalization" and not n.attrs.get("training_mode", 0)]
    norms = [n for n in norms if all(isinstance(t, gs.Constant) for t in n.inputs[3:5])]
    wanted = {n.inputs[0].name: [t.values.astype(np.float64) for t in n.inputs[3:5]] for n in norms}
    made = {t.name for node in model.graph.nodes for t in node.outputs}
    names = [name for name in wanted if name in made]
    if not names:
        return None
    tapped = model.copy()
    tensors = {t.name: t for node in tapped.graph.nodes for t in node.outputs}
    tapped.graph.outputs = [tensors[name] for name in names]
    session = open_session(tapped.proto(), threads=threads)
    gaps = {}
    for scale in SCALES:
        maker.scale = scale
        outputs = [run_session(session, maker.feed(i)) for i in range(TRIALS)]
        gap = 0.0
        for name in names:
            mean, variance = wanted[name]
            value = np.concatenate([np.moveaxis(o[name], 1, -1).reshape(-1, len(mean)) for o in outputs])
            value = value.astype(np.float64)
            ratio = np.log((value.var(axis=0) + 1e-12) / (variance + 1e-12))
            gap += float(np.mean(np.square(value.mean(axis=0) - mean) / (variance + 1e-12)) + np.mean(np.abs(ratio)))
        gaps[scale] = gap
    return min(gaps, key=lambda scale: (not np.isfinite(gaps[scale]), gaps[scale]))
