"""The pipeline that belongs to a target: the one that its file names, else one that follows from its number formats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from hwpass import pipeline_text
from hwpass.cost_models import Target
from hwpass.errors import InputError, UsageError
from hwpass.manager import Pass, passes
from hwpass.options import RunOptions
from hwpass.passes.prune_channels import PruneChannels
from hwpass.pipeline import Group, Repeat, flat
from hwpass.workflows.steps import budgets, usual

#: What brings a model into the one format of a target that computes in nothing else.
FORMAT_PASS = {"int8": "quantize", "fp16": "to-fp16"}


class Preset(NamedTuple):
    """The steps, and why these."""

    steps: tuple[Pass | Group, ...]
    why: str


def preset(target: Target, options: RunOptions | None = None) -> Preset:
    """The pipeline of a target, with the budgets of `options` in its first prune-channels that has none.

    Where the target's file names none it is the usual one; before its end the model is brought into the target's
    number format, where it computes in one alone that is not fp32. Raises UsageError, or InputError for what the
    target's file says.
    """
    options = options or RunOptions()
    if target.pipeline is not None:
        try:
            steps = pipeline_text.parse(target.pipeline, passes())
        except UsageError as error:
            raise InputError(f"target {target.name}: pipeline: {error}") from None
        return Preset(tuple(_filled(steps, budgets(options))), "its file says so")
    steps = list(usual(options))
    formats = list(target.peak)
    name = FORMAT_PASS.get(formats[0]) if len(formats) == 1 else None
    if name is None:
        return Preset(tuple(steps), f"the usual passes: it computes in {' and '.join(formats)}")
    known = passes()
    if name not in known:
        raise UsageError(f"the preset of {target.name} needs the pass {name}, which is not there; see `hwpass passes`")
    why = f"the usual passes, then {name}: it computes in {formats[0]} alone"
    return Preset((*steps[:-1], known[name](), steps[-1]), why)


def _filled(steps: Sequence[Pass | Group], asked: dict[str, str]) -> list[Pass | Group]:
    """The same steps with budgets in the first pruning that has none. Raises UsageError where there is none."""
    if not asked:
        return list(steps)
    open_ = [step for step in flat(steps) if isinstance(step, PruneChannels) and not step.budgets()]
    if not open_:
        raise UsageError(
            "the target's pipeline has no prune-channels without a budget; leave the budget out, or give a pipeline"
        )
    return [_put(step, open_[0], asked) for step in steps]


def _put(step: Pass | Group, place: PruneChannels, asked: dict[str, str]) -> Pass | Group:
    if isinstance(step, Group):
        inner = [_put(each, place, asked) for each in step.steps]
        return Repeat(*inner, n=step.n) if isinstance(step, Repeat) else Group(*inner)
    return replace(place, **asked) if step is place else step  # type: ignore[arg-type]
