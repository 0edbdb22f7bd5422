"""The scale of images: what pixels in [0, 1] are multiplied by and shifted by before they reach the model.

Sources, the surest first: what the user states, what prepares the input within the graph, the statistics that batch
normalisations remember, and, where a model tells classes apart, which scale made-up images say most on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hwpass.model.model import Model
from hwpass.ops import traits_of
from hwpass.runtime.inputs import StatedInput, is_float
from hwpass.runtime.sessions import Feed, open_session, run_session

if TYPE_CHECKING:
    import onnxruntime as ort

#: Images that try a scale against the statistics of batch normalisations.
TRIALS = 16

#: Images that try what a scale tells of classes, and multiply-accumulates of all trials together, as far as the fewest
#: images allow.
TOLD, FEWEST_TOLD, TOLD_MACS = 256, 32, 2e12

#: Nats of information on the class below which an output tells no classes apart.
LEAST_TOLD = 0.1

#: A scale is certain that tells so many times as much as the next.
CLEARLY = 1.25


#: Deviations from zero below which a model counts as balanced: activations are crossed then.
BALANCED = 1.0


@dataclass(frozen=True)
class Scale:
    """Images [N, C, H, W] in [0, 1] become images * factor + shift, one number or one for each channel."""

    name: str
    factor: tuple[float, ...]
    shift: tuple[float, ...]

    @classmethod
    def stated(cls, stated: StatedInput) -> Scale:
        """The scale that a user states."""
        said = stated.range
        name = f"the scale of {stated}" if said is None else f"[{said[0]:g}, {said[1]:g}]"
        return cls(name, *stated.affine())

    def of(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """The images on this scale, [N, C, H, W]."""
        factor, shift = (np.asarray(v, np.float32).reshape(-1, 1, 1) for v in (self.factor, self.shift))
        return images * factor + shift


#: The usual ones: ImageNet's means and deviations differ little between channels, and grey pictures of single things
#: (digits, garments) have a dark ground.
SCALES = {
    name: Scale(name, (factor,), (shift,))
    for name, factor, shift in (
        ("[0, 1]", 1.0, 0.0), ("[-1, 1]", 2.0, -1.0), ("standardised", 4.4, -2.1),
        ("standardised for a dark ground", 2.9, -0.9), ("[0, 255]", 255.0, 0.0),
    )
}  # fmt: skip

#: Those tried by what they tell, the last on grey images. Bytes drive any network to certainty: they count where the
#: graph states them.
TRIED = ("[0, 1]", "[-1, 1]", "standardised", "standardised for a dark ground")


@dataclass(frozen=True)
class Assumed:
    """Scales to make images on, in turn, and why these. `sure` where the model or the user says so."""

    scales: tuple[Scale, ...]
    why: str
    sure: bool


Feeds = Callable[[Scale, int], Feed]
"""Feed number i with images on a scale."""


def assumed_scale(
    model: Model, original: Callable[[], Model], name: str, channels: int, feeds: Feeds, threads: int, macs: float = 0.0
) -> Assumed:
    """The scale of the images of an input that nobody stated; `macs` is what one sample takes."""
    found = stated_scale(model, name)
    if found is not None:
        return Assumed((SCALES[found],), "as the graph prepares them", True)
    found = _fitting(original(), feeds, threads)
    if found is not None:
        return Assumed((SCALES[found],), "as its batch normalisations remember", True)
    scales = [SCALES[n] for n in (TRIED if channels == 1 else TRIED[:-1])]
    told = _told(model, feeds, scales, threads, macs)
    balance = partial(_balance, model, feeds, threads=threads)
    if told:
        return _best(told, balance)
    best = _balanced_best(scales, balance)
    if best:
        return Assumed(best, "on which it is balanced best", False)
    usual = "[0, 1]" if channels == 1 else "standardised"
    return Assumed((SCALES[usual],), "which is usual", False)


def assumed_map(
    model: Model,
    noise: Callable[[int], Feed],
    feeds: Feeds,
    threads: int,
    macs: float = 0.0,
    stated: Scale | None = None,
) -> Assumed | None:
    """The scale of rows of features that are made as maps, as images of one channel; None where a model does not
    clearly tell more classes apart in such maps than in noise. A stated scale alone is tried."""
    scales = [SCALES[name] for name in TRIED] if stated is None else [stated]
    told = _told(model, feeds, scales, threads, macs)
    if not told:
        return None
    session = open_session(model.proto(), threads=threads, level="lean")
    plain = _information(session, noise, _trials(len(scales), macs)) or 0.0
    return _best(told) if max(told.values()) >= CLEARLY * plain else None


def _best(told: Mapping[Scale, float], balance: Callable[[Sequence[Scale]], list[float]] | None = None) -> Assumed:
    """The scale that tells most. Where that is not clear, the two of those it leaves open on which a convolutional
    model is balanced best, or which tell most."""
    best, *others = sorted(told, key=lambda scale: -told[scale])
    if not others:
        return Assumed((best,), "as stated", True)
    open_ones = [best, *(scale for scale in others if told[best] < CLEARLY * told[scale])]
    if len(open_ones) == 1:
        return Assumed((best,), "on which it tells classes apart best", True)
    chosen = _balanced_best(open_ones, balance) or tuple(open_ones[:2])
    return Assumed(chosen, "between which what it tells of classes does not decide", False)


def _balanced_best(
    scales: Sequence[Scale], balance: Callable[[Sequence[Scale]], list[float]] | None
) -> tuple[Scale, ...]:
    """The two scales on which a model is balanced best; none where it is on no scale."""
    found = [] if balance is None else balance(scales)
    if not found or not min(found) < BALANCED:
        return ()
    return tuple(scales[place] for place in np.argsort(found, kind="stable")[:2])


def _balance(model: Model, feeds: Feeds, scales: Sequence[Scale], threads: int) -> list[float]:
    """How far what enters the activations behind convolutions is from zero, in deviations: the median over channels of
    |mean| / deviation, averaged over tensors, by scale. Empty where no activation follows a convolution.

    Batch normalisation holds it near zero in training, and it stays there once the normalisation is folded. Tensors of
    one position, as in squeeze-and-excitation, are not normalised.
    """
    tapped = model.copy()
    ends = [n for n in tapped.graph.nodes if traits_of(n).fuses == "activation" and n.inputs and n.inputs[0].inputs]
    tensors = {n.inputs[0].name: n.inputs[0] for n in ends if _convolves(n.inputs[0].inputs[0])}
    if not tensors:
        return []
    tapped.graph.outputs = list(tensors.values())
    session = open_session(tapped.proto(), threads=threads)
    found = []
    for scale in scales:
        outputs = [run_session(session, feeds(scale, i)) for i in range(TRIALS)]
        away = []
        for name in tensors:
            channels = [np.moveaxis(np.asarray(o[name], np.float64), 1, -1) for o in outputs]
            if all(np.prod(value.shape[1:-1]) > 1 for value in channels):
                rows = np.concatenate([value.reshape(-1, value.shape[-1]) for value in channels])
                away.append(float(np.median(np.abs(rows.mean(axis=0)) / (rows.std(axis=0) + 1e-12))))
        if not away:
            return []
        found.append(float(np.mean(away)))
    return found


def _convolves(node: gs.Node) -> bool:
    form = traits_of(node).form
    return form is not None and form.kind == "conv"


def class_scores(outputs: Sequence[Feed]) -> NDArray[np.float64] | None:
    """Probabilities of classes, [samples, classes]: of the one floating-point output with a number for each class.

    Logits are normalised (softmax). None where there is no such output, or more than one.
    """
    names = [name for name, value in outputs[0].items() if is_float(np.asarray(value).dtype)]
    if len(names) != 1:
        return None
    rows = [np.asarray(found[names[0]]) for found in outputs]
    shape = rows[0].shape
    if not rows[0].ndim or sum(size > 1 for size in shape[1:]) != 1 or any(row.shape[1:] != shape[1:] for row in rows):
        return None
    scores = np.concatenate([row.reshape(len(row), -1) for row in rows]).astype(np.float64)
    if not np.isfinite(scores).all():
        return None
    if scores.min() >= 0 and np.allclose(scores.sum(axis=1), 1, atol=1e-3):
        return scores
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(scores / scores.sum(axis=1, keepdims=True))


def information(probabilities: NDArray[np.float64]) -> float:
    """Mutual information of sample and class, nats: the entropy of the mean less the mean of the entropies.

    It is low where a network says the same of every image, and where it is never sure.
    """
    return float(entropy(probabilities.mean(axis=0)) - entropy(probabilities).mean())


def entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Nats of each distribution along the last axis."""
    return np.asarray(-(p * np.log(np.maximum(p, 1e-12))).sum(axis=-1))


def _told(model: Model, feeds: Feeds, tried: Sequence[Scale], threads: int, macs: float) -> dict[Scale, float]:
    """What a model tells of the class of made-up images, by scale; empty where it tells no classes apart."""
    session = open_session(model.proto(), threads=threads, level="lean")
    found: dict[Scale, float] = {}
    for scale in tried:
        told = _information(session, partial(feeds, scale), _trials(len(tried), macs))
        if told is None:
            return {}
        found[scale] = told
    return found if max(found.values()) >= LEAST_TOLD else {}


def _trials(scales: int, macs: float) -> int:
    """How many images try each scale."""
    return int(np.clip(TOLD_MACS / max(scales * macs, 1.0), min(FEWEST_TOLD, TOLD), TOLD))


def _information(session: ort.InferenceSession, feeds: Callable[[int], Feed], count: int) -> float | None:
    """What a model tells of the class of single feeds; None where it gives no classes."""
    outputs = []
    for number in range(count):
        outputs.append(run_session(session, feeds(number)))
        if class_scores(outputs[-1:]) is None:
            return None
    scores = class_scores(outputs)
    return None if scores is None else information(scores)


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
        if node.op in ("Transpose", "Cast", "Identity"):
            continue
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
        (factor,), (shift,) = SCALES[name].factor, SCALES[name].shift
        return float(abs(np.log(max(high - low, 1e-9) / factor)) + abs(low - shift) / factor)

    return min(SCALES, key=distance)


def _fitting(model: Model, feeds: Feeds, threads: int) -> str | None:
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
    for scale in SCALES.values():
        outputs = [run_session(session, feeds(scale, i)) for i in range(TRIALS)]
        gaps[scale.name] = sum(_gap(outputs, name, *wanted[name]) for name in names)
    return min(gaps, key=lambda scale: (not np.isfinite(gaps[scale]), gaps[scale]))


def _gap(
    outputs: Sequence[Mapping[str, NDArray[np.float32]]], name: str, mean: NDArray[np.float64],
    variance: NDArray[np.float64],
) -> float:  # fmt: skip
    """How far a tensor's means and variances per channel are from those remembered."""
    value = np.concatenate([np.moveaxis(o[name], 1, -1).reshape(-1, len(mean)) for o in outputs]).astype(np.float64)
    ratio = np.log((value.var(axis=0) + 1e-12) / (variance + 1e-12))
    return float(np.mean(np.square(value.mean(axis=0) - mean) / (variance + 1e-12)) + np.mean(np.abs(ratio)))
