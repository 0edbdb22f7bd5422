"""Many budgets, one study of the model: the trade-off between cost and quality, each model proved exact."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from hwpass.cost_models import Target
from hwpass.errors import BudgetError, InputError, UsageError, VerdictError, option
from hwpass.figures import shown
from hwpass.files.temporary import new_folder
from hwpass.files.whole_files import check_folder, together
from hwpass.manager import PassManager
from hwpass.model.model import Model
from hwpass.model.sources import Source
from hwpass.options import RunOptions, chosen, signature
from hwpass.passes.prune_channels import mend
from hwpass.reporting.build import costs_from, verdicts_of
from hwpass.reporting.schema import Ratios
from hwpass.reporting.sweep import ALONG, SweepPoint, SweepReport, marked, no_front
from hwpass.verdicts.task_metric import metric_name, task_metric
from hwpass.version import __version__
from hwpass.workflows.job import Job
from hwpass.workflows.run import trusted
from hwpass.workflows.steps import PREPARE, amends, check_inputs, prune_step, verify_step

POINTS = (0.9, 0.75, 0.6, 0.5, 0.4, 0.33)


def sweep(
    source: Source | Model,
    target: str | os.PathLike[str] | Target,
    options: RunOptions | None = None,
    *,
    points: str | float | Iterable[float] = POINTS,
    budget: str = "latency",
    output: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] | None = None,
    **asked: Any,
) -> SweepReport:
    """Prune to each of several shares of one cost of the dense model, and mark the Pareto front: by the metric, or by
    the error on the data given; without both no point is marked.

    The dense model is studied once; a point may take loss curves again on its own way. Points that cannot be reached
    and models that fail a verdict are reported as such. With `output`, a folder, the models that passed are written
    there; none is kept in memory. What else is asked is given by name, or as `RunOptions`.
    Raises UsageError or InputError; each message is one line.
    """
    if budget not in ALONG:
        raise UsageError(f"{option('budget', shown(budget))}: choose one of {', '.join(ALONG)}")
    options = chosen("sweep", options, asked)
    check_inputs(options)
    shares = _shares(points)
    amend, verify = PassManager(amends(options)), PassManager([verify_step(options)])
    prunes = [PassManager([prune_step(options, {budget: f"{share:g}x"})]) for share in shares]
    metric = options.metric
    if metric is not None:
        task_metric(metric)
    source = trusted(source, options.allow_external)
    with ExitStack() as stack:
        folder = None if output is None else stack.enter_context(models_folder(output))
        # All models at once, so that a sweep that was interrupted leaves nothing.
        stack.enter_context(together())
        setting = options.given(("calib", "input", "seed", "threads", "dtype", "dim"))
        job = Job(source, target=target, progress=progress, **setting)
        if metric is not None:
            job.context.progress("running the metric on the original model")
        before = None if metric is None else job.context.metric_before(metric)
        job.prepare(PassManager(PREPARE))
        tell = job.context.progress
        work = _Sweep(job, amend, verify, folder, before)
        found = []
        for number, (share, prune) in enumerate(zip(shares, prunes, strict=True), 1):
            job.context.progress = partial(_under, tell, f"point {number} of {len(shares)}, {share:g}x")
            found.append(work.point(share, budget, prune))
    points_found = [work.dense(), *found]
    judged = metric is not None or options.calib is not None
    return SweepReport(
        hwpass=__version__,
        model=job.info,
        target=job.context.target.name if job.context.target is not None else "",
        budget=budget,
        metric=None if metric is None else metric_name(metric),
        data=options.calib is not None,
        front_note=None if judged else no_front(),
        points=marked(points_found, budget) if judged else points_found,
        warnings=work.warnings(),
        seconds=round(time.perf_counter() - job.start, 3),
    )


sweep.__signature__ = signature(sweep, "sweep")  # type: ignore[attr-defined]


def _under(tell: Callable[[str], None], heading: str, text: str) -> None:
    tell(f"{heading}: {text}")


class _Sweep:
    """The points of one sweep: what they share, and what they leave for the report."""

    def __init__(
        self, job: Job, amend: PassManager, verify: PassManager, folder: Path | None, before: float | None
    ) -> None:
        self.job = job
        self.amend = amend
        self.verify = verify
        self.folder = folder
        self.before = before
        self._warned: dict[str, list[str]] = {}  # the points that each warning came at
        self._made = 0

    def point(self, share: float, budget: str, prune: PassManager) -> SweepPoint:
        """The model of one budget, judged, and written where it passed."""
        asked = f"{share:g}x"
        try:
            made = self.job.attempt(prune)
        except BudgetError as error:
            return SweepPoint(asked=asked, status="unreachable", reason=str(error).removesuffix(mend()))
        made = self.job.further(made, self.amend)
        reason = None
        try:
            made = self.job.further(made, self.verify)
            result = self.job.result(made)
        except VerdictError as error:
            reason, result = str(error), self.job.result(made, unproved=True)
        self._made += 1
        for warning in made.context.warnings:
            self._warned.setdefault(warning, []).append(asked)
        verdicts = verdicts_of(made.context)
        file = None
        if self.folder is not None and reason is None:
            file = str(self.folder / _file(self.job.info.path, budget, share))
            result.save(file)
        return SweepPoint(
            asked=asked,
            status="pruned" if reason is None else "failed",
            costs=result.report.after,
            ratio=result.report.ratio,
            metric=None if verdicts.metric is None else verdicts.metric.after,
            drop=None if verdicts.metric is None else verdicts.metric.drop,
            fidelity=verdicts.fidelity,
            exactness=verdicts.exactness,
            file=file,
            reason=reason,
        )

    def warnings(self) -> list[str]:
        """What was warned of, and at which points where not at all of them."""
        return [
            text if len(where) == self._made else f"at {', '.join(where)}: {text}"
            for text, where in self._warned.items()
        ]

    def dense(self) -> SweepPoint:
        """The model as it was given, in the terms of the study that the points share."""
        study = self.job.context.shared.study
        assert study is not None
        held, peak = (round(value) for value in study.cost.activations(study.cost.dense))
        costs = costs_from(study.cost.base, self.job.params, self.job.size).model_copy(
            update={"activation_bytes": held, "peak_activation_bytes": peak}
        )
        drop = None if self.before is None else 0.0
        ratio = Ratios.of(costs, costs)
        return SweepPoint(asked="1x", status="dense", costs=costs, ratio=ratio, metric=self.before, drop=drop)


def model_files(source: str, budget: str, points: str | float | Iterable[float]) -> list[str]:
    """The names of the files that a sweep writes. Raises UsageError."""
    return [_file(source, budget, share) for share in _shares(points)]


def _file(source: str, budget: str, share: float) -> str:
    stem = Path(source).stem if source != "-" else ""
    return f"{stem or 'model'}-{budget}-{share:g}x.onnx"


def refused(report: SweepReport) -> VerdictError | BudgetError | None:
    """What a sweep ends with when a verdict failed, or when no point could be reached."""
    failed = [point.asked for point in report.points if point.status == "failed"]
    if failed:
        return VerdictError(f"a verdict failed at {', '.join(failed)}; those models were not written")
    if all(point.status in ("dense", "unreachable") for point in report.points):
        return BudgetError(f"none of the points can be reached along {report.budget}; ask for more of the model")
    return None


def parse_points(text: str) -> list[float]:
    """Shares from text such as `0.9,0.75x`. Raises UsageError.

    >>> parse_points("0.9, 0.75x")
    [0.9, 0.75]
    """
    try:
        return [float(part.strip().removesuffix("x")) for part in text.split(",")]
    except ValueError:
        asked = option("points", shown(text))
        raise UsageError(f"{asked}: not shares of the dense model; write 0.9,0.75,0.6") from None


def _shares(points: str | float | Iterable[float]) -> list[float]:
    """The shares, the largest first, each once."""
    if isinstance(points, str):
        points = parse_points(points)
    try:
        given = [float(share) for share in (points if isinstance(points, Iterable) else [points])]
    except (TypeError, ValueError):
        raise UsageError(f"{option('points')}: shares of the dense model are numbers, such as [0.9, 0.6]") from None
    shares = sorted(set(given), reverse=True)
    wrong = next((share for share in shares if not 0 < share < 1), None)
    if wrong is not None:
        raise UsageError(f"{option('points', wrong)}: a share of the dense model lies above 0 and below 1")
    if not shares:
        raise UsageError(f"{option('points')}: give at least one share of the dense model, such as 0.6")
    return shares


@contextmanager
def models_folder(output: str | os.PathLike[str]) -> Iterator[Path]:
    """The folder, made if it is not there; it goes again where nothing comes into it. Raises InputError."""
    if not os.fspath(output):
        raise InputError(f"{option('output', '')}: the name of a folder is missing")
    folder = Path(output)
    with ExitStack() as stack:
        try:
            stack.enter_context(new_folder(folder))
        except FileNotFoundError:
            raise InputError(f"{folder}: the folder {folder.parent} does not exist; create it first") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{folder}: cannot be a folder for the models ({reason}); name another") from None
        check_folder(folder, str(folder))
        yield folder
