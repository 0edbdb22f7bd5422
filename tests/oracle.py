"""The oracle of the core: whatever channels are removed, the pruned model equals its dense twin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from hwpass.coupling.branches import branches
from hwpass.coupling.groups import Coupling, couple
from hwpass.model.model import Model
from hwpass.surgery.cut import Surgery, prune
from hwpass.surgery.dense_twin import dense_twin

TOLERANCE = 1e-4
#: A difference this many times what a relative change of 1e-7 of the inputs makes is rounding, not surgery.
ROUNDING = 30.0

Feed = dict[str, NDArray[np.float32]]

ort.set_default_logger_severity(4)


class Inexact(AssertionError):
    """The pruned model and its twin disagree, or the pruned model is not one."""


@dataclass(frozen=True)
class Outcome:
    """What one check saw."""

    coupling: Coupling
    surgery: Surgery
    removed: int  # channels
    error: float  # largest difference over the output's largest magnitude


def run(proto: onnx.ModelProto, feeds: list[Feed]) -> list[list[NDArray[np.float32]]]:
    """The outputs for every feed, without graph optimisation."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [session.run(None, feed) for feed in feeds]


def feeds_of(proto: onnx.ModelProto, seed: int, sizes: tuple[int, ...] = (1, 3)) -> list[Feed]:
    """Normal inputs; every dynamic dimension takes each of `sizes` (plus its place in the list, to tell them apart)."""
    rng = np.random.default_rng(seed)
    names: dict[str, int] = {}
    feeds = []
    for size in sizes:
        feed = {}
        for entry in proto.graph.input:
            dims = entry.type.tensor_type.shape.dim
            shape = [d.dim_value if not d.dim_param else size + names.setdefault(d.dim_param, len(names)) for d in dims]
            feed[entry.name] = rng.standard_normal(shape).astype(np.float32)
        feeds.append(feed)
        if not names:
            break
    return feeds


def random_keep(coupling: Coupling, seed: int, share: float = 0.6) -> NDArray[np.bool_]:
    """A random choice of channels, at least one and as a rule not all of every group; at times a branch goes whole."""
    rng = np.random.default_rng(seed)
    keep = np.ones(int(coupling.component.max()) + 1, bool)
    for group, branch in zip(coupling.groups, branches(coupling), strict=True):
        alive = rng.random(group.width) < share
        alive[rng.integers(group.width)] = True
        if branch is not None and rng.random() < 0.3:
            alive[:] = False
        keep[group.components] = alive
    return keep


def difference(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """The largest absolute difference over the largest magnitude of `one`; infinite where only one is finite."""
    if one.shape != other.shape:
        raise Inexact(f"output of shape {other.shape} instead of {one.shape}")
    if one.dtype.kind != "f":
        return 0.0 if np.array_equal(one, other) else np.inf
    finite = np.isfinite(one)
    if not np.array_equal(finite, np.isfinite(other)):
        return np.inf
    if not finite.any():
        return 0.0
    scale = np.abs(one[finite]).max()
    gap = np.abs(one[finite] - other[finite]).max()
    return float(gap / scale) if gap and scale else np.inf if gap else 0.0


def check(
    proto: onnx.ModelProto,
    seed: int = 0,
    *,
    keep: Mapping[int, NDArray[np.bool_]] | None = None,
    sizes: tuple[int, ...] = (1, 3),
    share: float = 0.6,
) -> Outcome:
    """Couple, prune a random choice of channels, and compare with the dense twin; raises Inexact."""
    model = Model.load(proto)
    before = model.proto().SerializeToString(deterministic=True)
    coupling = couple(model)
    chosen = random_keep(coupling, seed, share)
    for group, mask in (keep or {}).items():
        chosen[coupling.groups[group].components] = mask
    surgery = prune(coupling, chosen)
    if model.proto().SerializeToString(deterministic=True) != before:
        raise Inexact("pruning changed the model that was coupled")
    removed = int((~chosen).sum())
    if not surgery.modified:
        return Outcome(coupling, surgery, removed, 0.0)
    pruned, twin = surgery.model.proto(), dense_twin(coupling, surgery).proto()
    try:
        onnx.checker.check_model(pruned, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        if _valid(proto):
            raise Inexact(f"the pruned model is invalid: {error}") from None
    feeds = feeds_of(proto, seed, sizes)
    wanted = run(twin, feeds)
    try:
        given = run(pruned, feeds)
    except Exception as error:
        raise Inexact(f"the pruned model does not run: {error}") from None
    worst = 0.0
    for feed, one, other in zip(feeds, wanted, given, strict=True):
        for place, (a, b) in enumerate(zip(one, other, strict=True)):
            apart = difference(a, b)
            if not apart <= TOLERANCE and not apart <= ROUNDING * _sensitivity(twin, feed, place):
                raise Inexact(f"output {place} differs by {apart:.3g} of its magnitude")
            worst = max(worst, apart)
    return Outcome(coupling, surgery, removed, worst)


def _valid(proto: onnx.ModelProto) -> bool:
    """Whether the checker accepts a model (it refuses GroupNormalization of operator sets 18 to 20 outright)."""
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


def _sensitivity(proto: onnx.ModelProto, feed: Feed, place: int) -> float:
    """How much an output changes when every input changes by about 1e-7 of itself: what rounding alone may do."""
    rng = np.random.default_rng(0)
    moved = {n: (v * (1 + 1e-7 * rng.choice([-2, -1, 1, 2], v.shape))).astype(v.dtype) for n, v in feed.items()}
    one, other = run(proto, [feed, moved])
    return difference(one[place], other[place])
