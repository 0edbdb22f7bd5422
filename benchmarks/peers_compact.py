"""Torch-Pruning and torch-kirigami on the compact networks, and one epoch of training on labels after them.

Both rank groups of channels by the squares of their weights. Models are exported and simplified
in the way that `peers_torch` found to run fastest. What torch-kirigami's greedy strategy accepts on its way to a small
budget is what it accepts on the way to a larger one: it is run once per network, and every setting takes the first
model on that way that meets its number of parameters.
"""

from __future__ import annotations

import copy
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import compact_modules
import onnx
import onnxsim
import torch
from common import macs
from latency_search import Pruned, Refusal
from numpy.typing import NDArray
from peers_torch import Source, TorchPruning, attend, quiet
from torch import nn
from torch_kirigami import DependencyGraph
from torch_kirigami.pruning import Granularity, Greedy, GroupMagnitude, ParameterBudget, PlanningContext, Pruner
from variants import replaced

import hwpass
from fixtures import train_compact
from fixtures.train import Attention

STEPS = 10  # of Torch-Pruning
LEAST = 0.08  # share of the parameters at which torch-kirigami's way ends
PATIENCE = 240.0  # seconds of processor time for torch-kirigami's way


@dataclass
class Compact:
    """A compact network's torch module, and how it is trained and exported."""

    network: Path
    data: Path
    samples: NDArray[Any]

    @property
    def spec(self) -> Any:
        """The network's recipe, for an epoch, and for the export that runs fastest."""
        return replace(train_compact.NETWORKS[self.network.stem], epochs=1, dynamo=False, preserve_norms=False)

    @cached_property
    def source(self) -> Source:
        """The module as Torch-Pruning's maker wants it; no labels, as its importance sees the weights alone."""
        Attention.forward = attend  # type: ignore[method-assign]
        module = compact_modules.restored(self.network, self.samples)
        return Source(self.network, module, torch.from_numpy(self.samples.copy()), torch.zeros(0))

    def exported(self, module: nn.Module) -> Pruned:
        """A pruned module as ONNX."""
        with tempfile.TemporaryDirectory() as folder, quiet():
            path = Path(folder) / "pruned.onnx"
            train_compact.export(module, self.spec, self.source.images[:2], path)
            model, _ = onnxsim.simplify(onnx.load(path))
        facts = {"macs": macs(model) / macs(self.network)}
        return Pruned(model, facts | {"params": parameters(model) / parameters(self.network)})

    def tuned(self, module: nn.Module) -> Pruned:
        """A pruned module after an epoch on all labelled training samples."""
        torch.manual_seed(0)
        with quiet():
            train_compact.train(module, training(self.data, self.spec.name, self.spec.shift), self.spec)
        return self.exported(module)


def parameters(model: onnx.ModelProto | Path) -> int:
    """Weights of a model."""
    return hwpass.load(model).parameter_count()


@lru_cache(maxsize=1)
def training(data: Path, name: str, shift: int) -> train_compact.Data:
    """Labelled batches of a network's view of the training set."""
    if name == "letters":
        return train_compact.words(write=False)
    spec = next(s for s in train_compact.NETWORKS.values() if (s.name, s.shift) == (name, shift))
    return train_compact.images(data, spec)


@dataclass(frozen=True)
class Shape:
    """What the search asks a peer for: structures alone, whose weights do not matter before one is chosen."""

    compact: Compact
    module: Callable[[float], nn.Module]
    rounding: int

    def draft(self, setting: float) -> Pruned:
        """Prune, export, simplify."""
        module = self.module(setting)
        try:
            made = self.compact.exported(module)
        except Exception as error:  # whatever the exporter raises on what a peer made
            raise Refusal(f"export: {type(error).__name__}: {' '.join(str(error).split())[:100]}") from error
        return replace(made, facts={**made.facts, "rounding": self.rounding})

    final = draft

    def tuned(self, setting: float) -> Pruned:
        """The model at a setting after the epoch."""
        return self.compact.tuned(self.module(setting))


def torch_pruning(compact: Compact, rounding: int, everywhere: bool) -> Shape:
    """Torch-Pruning by the L2 magnitude of groups; a setting is its pruning ratio."""
    return Shape(compact, TorchPruning(compact.source, "L2", rounding, everywhere, steps=STEPS).module, rounding)


@dataclass
class Kirigami:
    """torch-kirigami by the L2 magnitude of groups; a setting is the share of the parameters that goes."""

    compact: Compact
    rounding: int
    why: str = ""
    steps: list[tuple[int, Any]] = field(default_factory=list)  # parameters that are left, and what was taken

    def shape(self) -> Shape:
        """For the search."""
        return Shape(self.compact, self.module, self.rounding)

    def module(self, setting: float) -> nn.Module:
        """The pruned module. Raises Refusal."""
        pruner = self._walked
        total = self.steps[0][0] if self.steps else 0
        met = [taken for left, taken in self.steps if left <= (1 - setting) * total]
        if not met:
            least = f"no fewer than {self.steps[-1][0] / total:.2f} of the parameters; " if self.steps else ""
            raise Refusal(f"torch-kirigami: {least}{self.why}")
        module = copy.deepcopy(self.compact.source.module)
        return Pruner(module).apply(pruner.plan_remove(met[0]))[0]

    @cached_property
    def _walked(self) -> Any:
        """Follow the greedy strategy to the least budget, and note every model on the way."""
        measure = PlanningContext.deficit

        def deficit(context: Any, impact: Any) -> int:
            left = context.parameter_count(impact)
            if not self.steps or left < self.steps[-1][0]:
                self.steps.append((left, impact.requested))
            return int(measure(context, impact))

        pruner = None
        try:
            with limited(PATIENCE), replaced(PlanningContext, "deficit", deficit):
                module = self.compact.source.module
                graph = DependencyGraph.build(module, args=(self.compact.source.images[:2],))
                head = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)][-1]
                pruner = Pruner(module, graph=graph, granularity=Granularity(default=self.rounding, by_path={head: 1}))
                budget = ParameterBudget(max_params=int(LEAST * sum(p.numel() for p in module.parameters())))
                pruner.plan(pruner.discover_candidates(), budget=budget, strategy=Greedy(GroupMagnitude(p=2)))
        except Exception as error:  # whatever it raises
            self.why = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        return pruner


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise TimeoutError after so much processor time."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"stopped after {seconds:.0f} s of processor time")

    old = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)
