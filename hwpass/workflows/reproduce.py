"""Make a reproducer of a failure: the least pipeline and graph that still fail the same way."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from hwpass.context import Context
from hwpass.errors import HwpassError, InputError, ProofError
from hwpass.figures import counted, shown_path
from hwpass.instruments.recording import Recording
from hwpass.manager import Pass, PassManager
from hwpass.model.model import Model
from hwpass.passes.verify import Verify
from hwpass.proto.subgraph import Parts
from hwpass.verdicts.proof_feeds import proof_feeds
from hwpass.verdicts.proof_sides import AsGiven
from hwpass.workflows.bundle import write_bundle
from hwpass.workflows.failures import Failure, Setting, failure, is_fault, without_data
from hwpass.workflows.reduction import Deadline, fewer_steps, smallest_part

#: Samples of calibration data that a reproducer holds.
SAMPLES = 16


@dataclass(frozen=True, eq=False)
class _Case:
    """A model, a pipeline and what it runs under."""

    model: onnx.ModelProto
    steps: tuple[Pass, ...]
    setting: Setting

    def fails(self, like: Failure) -> bool:
        """Whether it fails in the same way."""
        return failure(self.model, self.steps, self.setting) == like


def reproduce(
    recording: Recording, steps: Sequence[Pass], context: Context, folder: str | os.PathLike[str], error: Exception
) -> Path | None:
    """Write a reproducer of the failure that ended a recorded run, and have the error name it. None where the error
    shows no fault of a pass: a budget that cannot be met, a fidelity or a metric that failed."""
    if recording.failure is None or not is_fault(error):
        return None
    step, model, _ = recording.failure
    wanted = Failure.of(step, error)
    before = [*((ran.step, ran.before) for ran in recording.ran), (step, model)]
    setting = _setting(context, steps)
    deadline = Deadline()
    context.progress("looking for the least that fails")
    if isinstance(error, ProofError) and step.effect == "none":
        wanted, before = _localised(wanted, before, setting)
    case = _smallest_pipeline(before, setting, wanted, deadline)
    reproduced = case is not None
    if case is None:
        passes = tuple(one for one, _ in before)
        case = _Case(_proto(before[0][1]), passes, setting)  # type: ignore[arg-type]
    else:
        case = _smallest_graph(case, wanted, deadline)
    given: dict[str, str | int] = {"path": model.path, "sha256": model.sha256, "nodes": len(before[-1][1].graph.nodes)}
    found = failure(case.model, case.steps, case.setting) if reproduced else None
    text = str(PassManager(case.steps))
    place = write_bundle(folder, case.model, text, case.setting, found or wanted, given, reproduced)
    nodes = counted(len(case.model.graph.node), "node")
    least = f"{nodes}, pipeline {text}" if reproduced else "it did not fail again: the run's own model and pipeline"
    _tell(error, f"reproducer in {shown_path(place)} ({least})")
    return place


def _tell(error: Exception, text: str) -> None:
    """Have an error say more."""
    if isinstance(error, HwpassError):
        error.args = (f"{error}; {text}",)
    else:
        error.add_note(f"in pass: {text}")


def _setting(context: Context, steps: Sequence[Pass]) -> Setting:
    feed = None
    if context.calibration is not None:
        feed = next(iter(context.calibration.batches(SAMPLES, limit=SAMPLES)))
    asked = (step.tolerance for step in steps if isinstance(step, Verify))
    rtol = next((tolerance for tolerance in asked if tolerance is not None), None)
    return Setting(context.target, context.seed, context.threads, dict(context.dims), feed, context.plan, rtol)


def _localised(
    wanted: Failure, before: list[tuple[Any, Model]], setting: Setting
) -> tuple[Failure, list[tuple[Any, Model]]]:
    """Where a judge refuses what passes before it did: the pass that is refused by itself, where there is one."""
    for place, (step, model) in enumerate(before[:-1]):
        after = before[place + 1][1]
        if after is model:
            continue
        found = failure(_proto(before[0][1]), [one for one, _ in before[: place + 1]], setting)
        if found is not None:
            return (found, before[: place + 1]) if found.step == step.name else (wanted, before)
    return wanted, before


def _smallest_pipeline(
    before: list[tuple[Any, Model]], setting: Setting, wanted: Failure, deadline: Deadline
) -> _Case | None:
    """The last passes of a run, on the model before them, and then without those that are not needed."""
    for place in range(len(before) - 1, -1, -1):
        try:
            model = _proto(before[place][1])
        except (ValueError, HwpassError):  # no protobuf is so large
            continue
        steps = tuple(step for step, _ in before[place:])
        for tried in (without_data(setting), setting) if setting.feed is not None else (setting,):
            case = _Case(model, steps, tried)
            if case.fails(wanted):
                return _plain_setting(_fewer_steps(case, wanted, deadline), wanted, deadline)
            if deadline.passed:
                return None
    return None


def _fewer_steps(case: _Case, wanted: Failure, deadline: Deadline) -> _Case:
    left = fewer_steps(case.steps, lambda some: replace(case, steps=tuple(some)).fails(wanted), deadline)
    return replace(case, steps=left)


def _plain_setting(case: _Case, wanted: Failure, deadline: Deadline) -> _Case:
    """Without data, target or sizes that it fails without."""
    plain: tuple[dict[str, Any], ...] = ({"feed": None}, {"target": None}, {"dims": {}}, {"plan": None})
    for plainer in plain:
        trial = replace(case, setting=replace(case.setting, **plainer))
        if not deadline.passed and trial.fails(wanted):
            case = trial
    return case


def _smallest_graph(case: _Case, wanted: Failure, deadline: Deadline) -> _Case:
    """The least part of the graph that still fails; what flows into it is made up, or taken from the data."""

    def fails(graph: onnx.ModelProto) -> bool:
        return replace(case, model=graph, setting=_inside(case, graph)).fails(wanted)

    parts = Parts(case.model)
    if parts.unknown:
        parts = Parts(case.model, _seen(case))
    found = smallest_part(parts, fails, deadline)
    if found is None:
        return case
    return _fewer_steps(replace(case, model=found, setting=_inside(case, found)), wanted, deadline)


def _seen(case: _Case) -> dict[str, np.ndarray]:
    """Every tensor of a run, on the least of the inputs of a proof; nothing where they cannot be had."""
    try:
        model = Model.load(case.model)
        given = AsGiven("", case.model, 1)
        feeds = proof_feeds(model, case.setting.context(model), given)
        feed = min(feeds, key=lambda one: sum(value.size for value in one.values()))
        return {**feed, **given.tensors(given.names(), feed)}
    except HwpassError:
        return {}


def _inside(case: _Case, part: onnx.ModelProto) -> Setting:
    """The setting of a part of a graph: data are what flows into it."""
    if case.setting.feed is None:
        return case.setting
    names = [value.name for value in part.graph.input]
    feed: Mapping[str, np.ndarray] = case.setting.feed
    inner = [name for name in names if name not in feed]
    try:
        taken = AsGiven("", case.model, 1).tensors(inner, feed) if inner else {}
    except InputError:
        return without_data(case.setting)
    values = {**feed, **taken}
    return replace(case.setting, feed={name: values[name] for name in names if name in values})


def _proto(model: Model) -> onnx.ModelProto:
    """A model as passes would be given it: the same graph, from a protobuf."""
    return model.proto()
