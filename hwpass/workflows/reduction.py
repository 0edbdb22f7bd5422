"""The least that still fails: a pipeline with fewer passes, a graph with fewer nodes.

Delta debugging (Zeller and Hildebrandt 2002): parts are left out as long as what is left fails the same way. Passes
come first, then windows of the graph in its order, the smallest first, then single nodes; last, nodes that have others
on both sides are bypassed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields

import onnx

from hwpass.errors import UsageError
from hwpass.manager import Pass
from hwpass.passes.prune_channels import PruneChannels
from hwpass.proto.subgraph import Parts, bypassed

#: Seconds after which what has been reached is taken.
PATIENCE = 120.0

#: How narrow the first windows are, as shares of the graph, and how far apart, as a share of their width.
SHARES, STRIDE = (0.125, 0.25, 0.5, 0.75), 0.25

#: Graphs of more nodes are not gone through node by node once more.
MOST_BYPASSED = 64


class Deadline:
    """A time by which a search ends with what it has."""

    def __init__(self, seconds: float = PATIENCE) -> None:
        self._end = time.monotonic() + seconds

    @property
    def passed(self) -> bool:
        """Whether it is over."""
        return time.monotonic() > self._end


def fewer_steps(steps: Sequence[Pass], fails: Callable[[Sequence[Pass]], bool], deadline: Deadline) -> tuple[Pass, ...]:
    """Passes that still fail when each of the others is left out, and with plain options where those fail too."""
    left = list(steps)
    for place in range(len(left) - 1, -1, -1):
        trial = left[:place] + left[place + 1 :]
        if trial and not deadline.passed and fails(trial):
            left = trial
    for place, step in enumerate(left):
        for plainer in _plainer(step):
            trial = [*left[:place], plainer, *left[place + 1 :]]
            if not deadline.passed and fails(trial):
                left = trial
                break
    return tuple(left)


def _plainer(step: Pass) -> Iterator[Pass]:
    """The pass with options that ask for less: half of all channels by their norms, or none but the defaults."""
    if isinstance(step, PruneChannels):
        found = PruneChannels(channels="0.5x", score="l2")
        if found != step:
            yield found
        return
    if any(getattr(step, item.name) != item.default for item in fields(step)):
        try:
            yield type(step)()
        except (UsageError, TypeError):
            return


def smallest_part(parts: Parts, fails: Callable[[onnx.ModelProto], bool], deadline: Deadline) -> onnx.ModelProto | None:
    """The part of a graph that no longer fails when any single node of it is left out; None where no part fails."""
    model, every = parts.model, tuple(range(len(parts.nodes)))
    known: dict[tuple[int, ...], bool] = {every: True}

    def still(numbers: tuple[int, ...]) -> bool:
        if numbers not in known:
            cut = parts.part(numbers) if numbers and not deadline.passed else None
            known[numbers] = cut is not None and fails(cut)
        return known[numbers]

    left = _narrowed(every, still)
    left = _thinned(left, still)
    found = model if left == every else parts.part(left)
    assert found is not None
    found = _shortened(found, lambda trial: not deadline.passed and fails(trial))
    return None if found is model else found


def _narrowed(nodes: tuple[int, ...], still: Callable[[tuple[int, ...]], bool]) -> tuple[int, ...]:
    """A window of consecutive nodes, narrowed until no narrower one is found."""
    while True:
        found = next(filter(still, _windows(nodes)), None)
        if found is None:
            return nodes
        nodes = found


def _windows(nodes: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    sizes = sorted({max(1, round(share * len(nodes))) for share in SHARES} - {len(nodes)})
    for size in sizes:
        step = max(1, round(STRIDE * size))
        starts = sorted({*range(0, len(nodes) - size + 1, step), len(nodes) - size})
        yield from (nodes[start : start + size] for start in starts)


def _thinned(nodes: tuple[int, ...], still: Callable[[tuple[int, ...]], bool]) -> tuple[int, ...]:
    """Without ever more parts, down to single nodes: each round leaves out pieces of half the size."""
    size = max(1, len(nodes) // 2)
    while True:
        place, before = 0, nodes
        while place < len(nodes):
            trial = nodes[:place] + nodes[place + size :]
            if trial and still(trial):
                nodes = trial
            else:
                place += size
        if size == 1 and nodes == before:
            return nodes
        size = max(1, size // 2)


def _shortened(model: onnx.ModelProto, still: Callable[[onnx.ModelProto], bool]) -> onnx.ModelProto:
    """The model with each node bypassed that it still fails without, the last nodes first."""
    if len(model.graph.node) > MOST_BYPASSED:
        return model
    for number in range(len(model.graph.node) - 1, -1, -1):
        weights = {tensor.name for tensor in model.graph.initializer}
        for name in dict.fromkeys(model.graph.node[number].input):
            trial = bypassed(model, number, name) if name and name not in weights else None
            if trial is not None and still(trial):
                model = trial
                break
    return model
