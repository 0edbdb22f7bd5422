"""What becomes of an operator of the standard when the channels around it are thinned: exact, frozen, or wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from node_cases import Case, variants
from onnx.reference import ReferenceEvaluator

from hwpass.coupling.chains import frozen_layers
from hwpass.coupling.groups import Coupling, couple
from hwpass.errors import InputError
from hwpass.model.model import Model
from hwpass.surgery.cut import prune
from hwpass.surgery.dense_twin import dense_twin

ort.set_default_logger_severity(4)

#: Largest difference over the largest magnitude; 16-bit types round more coarsely, smaller ones more so.
TOLERANCE = {"float16": 2e-2, "bfloat16": 1e-1}

#: Reasons that would only say that nobody thought of the case.
EMPTY = ("", "its channels belong to no layer that could be thinned")


@dataclass(frozen=True)
class Finding:
    """One model: `outcome` is exact, frozen, wrong or skipped (the dense model does not run)."""

    name: str
    operator: tuple[str, str]
    outcome: str
    removed: int = 0
    detail: str = ""


class _Runner:
    """ONNX Runtime where it knows the operator, ONNX's reference implementation elsewhere."""

    def __init__(self, proto: onnx.ModelProto, feed: Mapping[str, Any]) -> None:
        self.reference = False
        try:
            self.dense = self(proto, feed)
        except Exception:
            self.reference = True
            self.dense = self(proto, feed)

    def __call__(self, proto: onnx.ModelProto, feed: Mapping[str, Any]) -> list[Any]:
        if self.reference:
            return list(ReferenceEvaluator(proto).run(None, dict(feed)))
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return list(session.run(None, dict(feed)))


def random_keep(coupling: Coupling, seed: int) -> np.ndarray:
    """A random choice of channels; of every group at least one goes and one stays."""
    rng = np.random.default_rng(seed)
    keep = np.ones(int(coupling.component.max()) + 1, bool)
    for group in coupling.groups:
        alive = rng.random(group.width) < 0.6
        order = rng.permutation(group.width)
        alive[order[0]] = False
        alive[order[-1]] = True
        keep[group.components] = alive
    return keep


def examine(name: str, case: Case, proto: onnx.ModelProto, feed: Mapping[str, Any], seed: int = 0) -> Finding:
    """Couple, prune, and compare with the dense twin."""
    try:
        with np.errstate(all="ignore"):
            run = _Runner(proto, feed)
    except Exception as error:
        return Finding(name, case.operator, "skipped", 0, f"{type(error).__name__}: {str(error)[:200]}")
    try:
        model = Model.load(proto)
    except InputError as error:
        return Finding(name, case.operator, "skipped", 0, str(error)[:200])
    try:
        coupling = couple(model)
        keep = random_keep(coupling, seed)
        surgery = prune(coupling, keep)
        removed = int((~keep).sum())
        if not removed:
            return _frozen(name, case, coupling)
        pruned, twin = surgery.model.proto(), dense_twin(coupling, surgery).proto()
        with np.errstate(all="ignore"):
            wanted, given = run(twin, feed), run(pruned, feed)
    except Exception as error:
        return Finding(name, case.operator, "wrong", 0, f"{type(error).__name__}: {str(error)[:300]}")
    tolerance = max(TOLERANCE.get(t, 1e-4) for t in _types(case))
    for number, (a, b) in enumerate(zip(wanted, given, strict=True)):
        problem = difference(a, b, tolerance)
        if problem:
            return Finding(name, case.operator, "wrong", removed, f"output {number}: {problem}")
    return Finding(name, case.operator, "exact", removed)


def _types(case: Case) -> list[str]:
    values = [*case.values, *(value for _, _, value in case.outputs)]
    return [str(v.dtype) for v in values if isinstance(v, np.ndarray)] or ["float32"]


def _frozen(name: str, case: Case, coupling: Coupling) -> Finding:
    reasons = [reason for _, reason in frozen_layers(coupling)]
    own = next((node for node in coupling.nodes if node.gs.name == "operator"), None)
    if own is not None and own.frozen:
        return Finding(name, case.operator, "frozen", 0, own.frozen)
    if not any(node.product is not None for node in coupling.nodes):
        return Finding(name, case.operator, "skipped", 0, "no channels around it")
    empty = [reason for reason in reasons if reason in EMPTY]
    if empty or not reasons:
        return Finding(name, case.operator, "wrong", 0, "frozen without a reason")
    return Finding(name, case.operator, "frozen", 0, reasons[0])


def difference(one: Any, other: Any, tolerance: float) -> str:
    """What is different, in words; empty where nothing is."""
    if isinstance(one, list):
        parts = [difference(a, b, tolerance) for a, b in zip(one, other, strict=True)]
        return next((p for p in parts if p), "")
    a, b = np.asarray(one), np.asarray(other)
    if a.shape != b.shape:
        return f"shape {b.shape} instead of {a.shape}"
    if a.dtype.kind not in "fiub":
        return "" if np.array_equal(a, b) else "values differ"
    a, b = a.astype(np.float64), b.astype(np.float64)
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return "NaN or infinity on one side only"
    finite = np.isfinite(a)
    if not finite.any():
        return ""
    gap, scale = np.abs(a - b)[finite].max(), np.abs(a[finite]).max()
    return "" if gap <= tolerance * scale + 1e-7 else f"relative difference {gap / (scale or 1):.3g}"


def findings(case: Case, seeds: tuple[int, ...] = (0,)) -> list[Finding]:
    """All models of a case."""
    return [examine(name, case, proto, feed, seed) for name, proto, feed in variants(case) for seed in seeds]
