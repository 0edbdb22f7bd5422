"""onnxsim's structured pruning, on the fixture networks after `simplify`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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
    """Structured pruning by L2 norm, or by wanda on the calibration images with its finetune after it."""

    network: Path
    wanda: bool
    everywhere: bool  # one ranking over all layers, rather than the same share of each

    def draft(self, setting: float) -> Pruned:
        """Without the finetune, which changes no shape."""
        return self._pruned(self._simplified(), setting)

    def final(self, setting: float) -> Pruned:
        """With it."""
        simplified = self._simplified()
        pruned = self._pruned(simplified, setting)
        if not self.wanda:
            return pruned
        tuned = self._attempt(lambda: onnxsim.apply_pruning_finetune(simplified, pruned.model, self._batches()))
        return Pruned(tuned, pruned.facts)

    def _simplified(self) -> onnx.ModelProto:
        model, _ = onnxsim.simplify(onnx.load(self.network))
        return model

    def _batches(self) -> list[dict[str, np.ndarray]]:
        with np.load(self.network.with_name("calib.npz")) as data:
            images = data["image"]
        return [{"image": images[start : start + BATCH]} for start in range(0, len(images), BATCH)]

    def _pruned(self, simplified: onnx.ModelProto, sparsity: float) -> Pruned:
        given = onnx.ModelProto()
        given.CopyFrom(simplified)  # it may edit what it is given
        options = {"sparsity": sparsity, "global_sparsity": self.everywhere}
        if self.wanda:
            model = self._attempt(lambda: onnxsim.apply_structured_wanda_pruning(given, self._batches(), **options))
        else:
            model = self._attempt(lambda: onnxsim.apply_structured_pruning(given, **options))
        return Pruned(model, {"macs": macs(model) / macs(self.network)})

    @staticmethod
    def _attempt(work: Callable[[], onnx.ModelProto]) -> onnx.ModelProto:
        try:
            return work()
        except Exception as error:  # whatever it raises
            raise Refusal(f"onnxsim: {type(error).__name__}: {' '.join(str(error).split())[:100]}") from error


def variants(network: Path, wanda: bool) -> dict[str, Onnxsim]:
    """The same share of every layer, and one ranking over all layers."""
    return {
        "each layer": Onnxsim(network, wanda, False),
        "all layers": Onnxsim(network, wanda, True),
    }
