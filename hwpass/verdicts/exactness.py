"""The first verdict: the rewrite is exact. Nothing here knows about pruning, only about models and feeds.

The other verdicts are in `hwpass.verdicts.fidelity` and `hwpass.verdicts.task_metric`; `hwpass.verdicts.divergence`
finds where an inexact rewrite goes wrong. All of them can be imported from here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx

from hwpass.errors import InputError, VerdictError
from hwpass.runtime.comparison import (
    DEFAULT_ATOL,
    DEFAULT_RTOL,
    Difference,
    compare_arrays,
    compare_outputs,
    tolerance_of,
)
from hwpass.runtime.inputs import input_specs
from hwpass.runtime.memory import release_memory
from hwpass.runtime.sessions import Feed, Level, ModelLike, StoredModel, one_line, open_session, run_session
from hwpass.spans import span
from hwpass.verdicts.divergence import Divergence, IndexMap, first_divergence
from hwpass.verdicts.fidelity import Fidelity, OutputFidelity, fidelity
from hwpass.verdicts.task_metric import Predict, TaskMetric, evaluate_metric, task_metric
from hwpass.verdicts.tolerances import FidelityTolerance, parse_fidelity

__all__ = [
    "Difference",
    "Divergence",
    "Exactness",
    "Fidelity",
    "FidelityTolerance",
    "IndexMap",
    "OutputFidelity",
    "Predict",
    "TaskMetric",
    "check_valid",
    "compare_arrays",
    "compare_outputs",
    "evaluate_metric",
    "exactness",
    "fidelity",
    "first_divergence",
    "judge",
    "outputs_of",
    "parse_fidelity",
    "require_valid",
    "task_metric",
]


@dataclass(frozen=True)
class Exactness:
    """Whether two models that must give the same outputs do.

    An output passes when its largest absolute difference is at most `atol` plus `tolerance` times its largest
    magnitude. `would_pass` is the tolerance that would have passed (infinite when none would), `reason` one
    line about the failure, `cases` the sizes of the dynamic axes that were tried.
    """

    passed: bool
    max_abs: float
    max_rel: float
    tolerance: float
    would_pass: float
    worst_output: str | None
    cases: list[dict[str, int]]
    first_divergence: str | None = None
    reason: str | None = None
    outputs: dict[str, Difference] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        if self.passed:
            return f"exact: largest relative difference {self.max_rel:.2g} (tolerance {self.tolerance:g})"
        where = f"; first different tensor: {self.first_divergence}" if self.first_divergence else ""
        return f"not exact: {self.reason}{where}"


def exactness(
    twin: ModelLike | Callable[[], ModelLike],
    pruned: ModelLike | Callable[[], ModelLike],
    feeds: Sequence[Mapping[str, np.ndarray]],
    rtol: float | None = None,
    atol: float = DEFAULT_ATOL,
    threads: int = 1,
    *,
    index_map: IndexMap | None = None,
    level: Level = "lean",
) -> Exactness:
    """Compare a model with its dense twin (same inputs, same outputs) on each feed.

    One session is alive at a time; pass a function for a model that need not stay in memory. `rtol`
    defaults to 1e-4, and to more for outputs of 16 bits. With `index_map`, a failure is traced to the first
    tensor that differs. Raises `InputError` when the twin or a feed is unusable; a pruned model that does
    not load or run is a failure.
    """
    if not feeds:
        raise InputError("exactness: no inputs to compare on; give at least one feed")
    cases: list[dict[str, int]] = []
    reference = outputs_of(twin, feeds, threads, level, cases)
    try:
        candidate = outputs_of(pruned, feeds, threads, level)
    except InputError as error:
        infinite = float("inf")
        reason = f"the pruned model is unusable: {error}"
        return Exactness(False, infinite, infinite, rtol or DEFAULT_RTOL, infinite, None, cases, None, reason)
    differences = compare_outputs(reference, candidate, atol=atol)
    del reference, candidate
    verdict = judge(differences, rtol, cases)
    if verdict.passed or index_map is None or not any(map(_differs, differences.values())):
        return verdict
    for feed in feeds:
        found = first_divergence(twin, pruned, feed, index_map, rtol=verdict.tolerance, atol=atol, threads=threads)
        if found is not None:
            return replace(verdict, first_divergence=str(found))
    return verdict


def check_valid(model: onnx.ModelProto | Path, *, strict: bool = True) -> list[str]:
    """What is wrong with a model, one line each; empty when it is valid.

    `onnx.checker`, with strict shape inference unless `strict` is off. Weights go through a temporary file,
    so neither the 2 GB limit nor a copy in memory gets in the way.
    """
    if isinstance(model, Path):
        return _check_file(model, strict)
    if not model.graph.output:
        return ["the graph has no outputs"]
    try:
        with StoredModel(model) as stored:
            return _check_file(stored.path, strict)
    finally:
        release_memory()


@span("validity")
def require_valid(model: onnx.ModelProto | Path, original: onnx.ModelProto | Path | None = None) -> None:
    """Raise `VerdictError`, one line, for an invalid model.

    Shape inference, and the checker, are held against it only where they accept the `original`.
    """
    problems = check_valid(model)
    if problems and original is not None and check_valid(original):
        problems = check_valid(model, strict=False)
        if problems and check_valid(original, strict=False):
            problems = []  # an operator that ONNX does not know, under its own name: the runtime is the judge
    if problems:
        raise VerdictError(f"the rewritten model is invalid: {problems[0]}")


def _check_file(path: Path, strict: bool) -> list[str]:
    try:
        onnx.checker.check_model(str(path), full_check=strict)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return [one_line(error)]
    except (OSError, ValueError, RuntimeError) as error:  # unreadable file, or the checker's C++ side
        return [one_line(error)]
    return []


def outputs_of(
    model: ModelLike | Callable[[], ModelLike],
    feeds: Sequence[Mapping[str, np.ndarray]],
    threads: int = 1,
    level: Level = "lean",
    cases: list[dict[str, int]] | None = None,
) -> list[Feed]:
    """A model's outputs on every feed, in one session that is gone afterwards. Raises `InputError`."""
    opened = model() if callable(model) else model
    if cases is not None and isinstance(opened, onnx.ModelProto):
        cases.extend(_sizes(opened, feed) for feed in feeds)
    if isinstance(opened, onnx.ModelProto) and callable(model):
        # Nobody else holds this proto: its weights go to a file before the session loads them.
        with StoredModel(opened) as stored:
            del opened
            release_memory()
            session = stored.open_session(threads=threads, level=level)
    else:
        session = open_session(opened, threads=threads, level=level)
        del opened
    try:
        return [run_session(session, feed) for feed in feeds]
    finally:
        del session
        release_memory()


def _sizes(model: onnx.ModelProto, feed: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The sizes of the dynamic axes in a feed."""
    sizes: dict[str, int] = {}
    for spec in input_specs(model):
        if spec.name in feed and feed[spec.name].ndim == len(spec.shape):
            pairs = zip(spec.shape, feed[spec.name].shape, strict=True)
            sizes.update({symbol: size for symbol, size in pairs if isinstance(symbol, str)})
    return sizes


def judge(differences: Mapping[str, Difference], rtol: float | None, cases: list[dict[str, int]]) -> Exactness:
    """The verdict on differences that `compare_outputs` found."""
    limits = {name: tolerance_of(item.dtype, rtol) for name, item in differences.items()}
    floats = {name: item for name, item in differences.items() if not item.problem}
    worst = max(differences, key=lambda name: (_differs(differences[name]), differences[name].needed), default=None)
    failed = [name for name, item in differences.items() if item.problem or item.needed > limits[name]]
    reason = None
    if failed:
        worst = max(failed, key=lambda name: (bool(differences[name].problem), differences[name].needed))
        item = differences[worst]
        reason = f"output {worst!r}: " + (
            item.problem
            or f"relative difference {item.max_rel:.3g} (tolerance {limits[worst]:g}; "
            f"{item.needed:.3g} would have passed)"
        )
    elif all(item.proves_nothing for item in differences.values()):
        reason = "every output is empty, zero or NaN in every case, so that nothing is proved; use real data"
    empty = [name for name, item in differences.items() if item.proves_nothing]
    problems = any(item.problem for item in differences.values())
    return Exactness(
        passed=reason is None,
        max_abs=max((item.max_abs for item in differences.values()), default=0.0),
        max_rel=max((item.max_rel for item in differences.values()), default=0.0),
        tolerance=limits[worst] if worst is not None else rtol or DEFAULT_RTOL,
        would_pass=float("inf") if problems else max((item.needed for item in floats.values()), default=0.0),
        worst_output=worst,
        cases=cases,
        reason=reason,
        outputs=dict(differences),
        warnings=[f"output {name!r} is empty, zero or NaN in every case and proves nothing" for name in empty],
    )


def _differs(item: Difference) -> bool:
    return bool(item.problem) or item.needed > 0
