"""onnxsim's structured pruning after `simplify`, as accuracy.py and real_accuracy.py compare with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxsim
from common import macs
from latency_search import Pruned, Refusal

#: Sparsities tried first: sixteenths, so that common widths stay on even steps; the search refines between them.
GRID = tuple(k / 16 for k in range(1, 16))
BATCH = 32


@dataclass(frozen=True)
class Onnxsim:
    """Structured pruning by L2 norm, or by wanda on calibration feeds with its finetune after it."""

    network: Path
    feeds: Callable[[], Sequence[Mapping[str, np.ndarray]]]
    wanda: bool
    everywhere: bool = False  # one ranking over all layers, rather than the same share of each

    def draft(self, setting: float) -> Pruned:
        """Without the finetune, which changes no shape."""
        return self._pruned(self._simplified(), setting)

    def final(self, setting: float) -> Pruned:
        """With it."""
        simplified = self._simplified()
        pruned = self._pruned(simplified, setting)
        if not self.wanda:
            return pruned
        tuned = self._attempt("apply_pruning_finetune", simplified, pruned.model, list(self.feeds()))
        return Pruned(tuned, pruned.facts)

    def _simplified(self) -> onnx.ModelProto:
        return self._attempt("simplify", onnx.load(self.network))[0]  # type: ignore[no-any-return]

    def _pruned(self, simplified: onnx.ModelProto, sparsity: float) -> Pruned:
        given = onnx.ModelProto()
        given.CopyFrom(simplified)  # it may edit what it is given
        options = {"sparsity": sparsity, "global_sparsity": self.everywhere}
        if self.wanda:
            model = self._attempt("apply_structured_wanda_pruning", given, list(self.feeds()), **options)
        else:
            model = self._attempt("apply_structured_pruning", given, **options)
        return Pruned(model, {"macs": macs(model) / macs(self.network)})

    @staticmethod
    def _attempt(name: str, *arguments: Any, **options: Any) -> Any:
        try:
            return getattr(onnxsim, name)(*arguments, **options)
        except Exception as error:  # whatever it raises
            raise Refusal(f"onnxsim: {type(error).__name__}: {' '.join(str(error).split())[:100]}") from error


def batches(network: Path) -> list[dict[str, np.ndarray]]:
    """The calibration images of a fixture network."""
    with np.load(network.with_name("calib.npz")) as data:
        images = data["image"]
    return [{"image": images[start : start + BATCH]} for start in range(0, len(images), BATCH)]


def variants(network: Path, wanda: bool) -> dict[str, Onnxsim]:
    """The same share of every layer, and one ranking over all layers."""
    feeds = partial(batches, network)
    return {
        "each layer": Onnxsim(network, feeds, wanda, False),
        "all layers": Onnxsim(network, feeds, wanda, True),
    }
