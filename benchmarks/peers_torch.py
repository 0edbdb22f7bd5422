"""Torch-Pruning on the torch modules that the fixture networks were exported from.

Everything is settled in its favour: Taylor and Hessian importance see the labels of the calibration images; the squared
gradients of the Hessian are summed over the images here, because `accumulate_grad` of 1.6.1 keeps those of the last one
alone; models are exported and simplified in the way that runs fastest; one ranking over all layers and the same share
of each, rounding to 8 and to 16 channels (8 alone where there is attention), and for attention narrower heads and
fewer heads, are all tried, and the best accuracy counts.
"""

from __future__ import annotations

import copy
import io
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxsim
import torch
import torch_pruning
from common import macs
from latency_search import Pruned, Refusal
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from fixtures import train as fixtures
from hwpass.runtime.sessions import open_session, run_session

#: Pruning ratios tried first; the search refines between them.
GRID = (0.1, 0.18, 0.25, 0.32, 0.4, 0.47, 0.55, 0.62, 0.7, 0.77, 0.84, 0.9, 0.95)
IMPORTANCES = ("L1", "L2", "Taylor", "Hessian")
ROUNDINGS = (8, 16)


def attend(self: Any, x: Tensor) -> Tensor:
    """The fixture's attention with an inner width of its own, which pruning makes differ from that of the stream."""
    batch, tokens, _ = x.shape
    inner = self.proj.in_features
    qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, inner // self.heads).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)
    weights = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
    return self.proj((weights @ v).transpose(1, 2).reshape(batch, tokens, inner))


def exported_weights(network: Path, module: nn.Module) -> dict[str, Tensor]:
    """The module's weights as its ONNX file has them: under their names, or in the order of the MatMuls.

    Ends the program where the export folded batch normalisations into convolutions.
    """
    graph = onnx.load(network).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    products = iter([stored[n.input[1]] for n in graph.node if n.op_type == "MatMul" and n.input[1] in stored])
    found = {}
    for name, old in module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            found[name] = old
            continue
        value = stored[name] if name in stored else next(products, np.zeros((0, 0), np.float32)).T
        if f"{name}_bias" in stored or value.shape != tuple(old.shape):
            raise SystemExit(f"{network}: the export folded {name}; give the state dict with --weights FOLDER")
        found[name] = torch.from_numpy(value.copy())
    return found


@dataclass
class Source:
    """A fixture's torch module, and what importances are computed from."""

    network: Path
    module: nn.Module
    images: Tensor
    labels: Tensor
    _gradients: dict[str, list[Tensor]] = field(default_factory=dict)

    @classmethod
    def load(cls, network: Path, weights: Path | None, data: Path) -> Source:
        """Read `weights/NAME.pt`, or the ONNX file itself where that keeps all weights.

        Ends the program when they are not what the ONNX file was exported from.
        """
        fixtures.Attention.forward = attend  # type: ignore[method-assign]
        module = fixtures.FIXTURES[network.stem].build().eval()
        file = network if weights is None else weights / f"{network.stem}.pt"
        if weights is not None and not file.is_file():
            raise SystemExit(f"{file}: no such file; `python fixtures/train.py --weights {weights}` writes it")
        try:
            module.load_state_dict(exported_weights(network, module) if weights is None else torch.load(file))
        except RuntimeError as error:
            raise SystemExit(f"{file}: not the weights of {network}: {str(error).splitlines()[-1].strip()}") from error
        split = fixtures.load_split(data, "train")
        chosen = fixtures.calibration_choice(len(split.image))
        images = split.image[chosen]
        with np.load(network.with_name("calib.npz")) as stored:
            if not np.array_equal(stored["image"], images):
                raise SystemExit(f"{data}: calib.npz holds other images; make the fixtures again")
        expected = run_session(open_session(network), {"image": images[:64]})["logits"]
        with torch.no_grad():
            found = module(torch.from_numpy(images[:64])).numpy()
        if not np.allclose(expected, found, atol=1e-2, rtol=1e-2):
            raise SystemExit(f"{file}: not the weights of {network}; export again with --weights")
        return cls(network, module, torch.from_numpy(images), torch.from_numpy(split.label[chosen]))

    def gradients(self, importance: str) -> list[Tensor]:
        """Per parameter: the mean gradient (Taylor), or the mean of the squared gradients of the images (Hessian)."""
        if importance not in self._gradients:
            module = copy.deepcopy(self.module)
            parameters = list(module.parameters())
            if importance == "Taylor":
                F.cross_entropy(module(self.images), self.labels).backward()
                total = [p.grad for p in parameters]
            else:
                total = [torch.zeros_like(p) for p in parameters]
                for image, label in zip(self.images, self.labels, strict=True):
                    loss = F.cross_entropy(module(image[None]), label[None])
                    for sum_, gradient in zip(total, torch.autograd.grad(loss, parameters), strict=True):
                        sum_ += gradient.square() / len(self.images)
            self._gradients[importance] = total
        return self._gradients[importance]


@dataclass(frozen=True)
class TorchPruning:
    """Pruning by one importance; a setting is the pruning ratio."""

    source: Source
    importance: str
    rounding: int
    everywhere: bool = True  # one ranking over all layers, rather than the same share of each
    whole_heads: bool = False
    steps: int = 1  # in one, groups stay whole that rounding would leave nothing of

    def draft(self, setting: float) -> Pruned:
        """Prune, export, simplify."""
        return self.exported(self.module(setting))

    final = draft

    def module(self, setting: float) -> nn.Module:
        """The pruned torch module. Raises Refusal."""
        module = copy.deepcopy(self.source.module)
        importances = torch_pruning.importance
        if self.importance in ("L1", "L2"):
            scorer = importances.GroupMagnitudeImportance(p=int(self.importance[1]))
        else:
            kinds = {"Taylor": importances.GroupTaylorImportance, "Hessian": importances.GroupHessianImportance}
            scorer = kinds[self.importance]()
            for parameter, gradient in zip(module.parameters(), self.source.gradients(self.importance), strict=True):
                parameter.grad = gradient.clone()
        blocks = [m for m in module.modules() if isinstance(m, fixtures.Attention)]
        try:
            with quiet():
                pruner = torch_pruning.pruner.BasePruner(
                    module,
                    torch.zeros_like(self.source.images[:1]),
                    scorer,
                    global_pruning=self.everywhere,
                    pruning_ratio=setting,
                    iterative_steps=self.steps,
                    round_to=self.rounding,
                    ignored_layers=[[m for m in module.modules() if isinstance(m, nn.Linear)][-1]],
                    in_channel_groups={},  # the defaults are shared between pruners and keep what earlier ones entered
                    out_channel_groups={},
                    num_heads={m.qkv: m.heads for m in blocks},
                    prune_num_heads=self.whole_heads,
                    prune_head_dims=not self.whole_heads,
                    head_pruning_ratio=setting if self.whole_heads else 0.0,
                    unwrapped_parameters=[(p, 2) for name, p in module.named_parameters(recurse=False)],
                )
                for _ in range(self.steps):
                    pruner.step()
            for block in blocks:
                block.heads = pruner.num_heads[block.qkv]
            module.zero_grad(set_to_none=True)
            with torch.no_grad():
                module(torch.zeros_like(self.source.images[:2]))
        except Exception as error:  # whatever it raises
            raise Refusal(f"Torch-Pruning: {type(error).__name__}: {' '.join(str(error).split())[:100]}") from error
        return module

    def exported(self, module: nn.Module) -> Pruned:
        """The TorchScript export after onnxsim: measured at least as fast as the fixtures' own way of export."""
        fixture = replace(fixtures.FIXTURES[self.source.network.stem], dynamo=False, preserve_norms=False)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pruned.onnx"
            with quiet():
                fixtures.export(module, fixture, path)
            model, _ = onnxsim.simplify(onnx.load(path))
        return Pruned(model, {"macs": macs(model) / macs(self.source.network)})

    def tuned(self, setting: float, data: Path) -> Pruned:
        """The same after one epoch on the 60,000 labelled images, with the recipe of fixtures/train.py."""
        module = self.module(setting)
        fixture = fixtures.FIXTURES[self.source.network.stem]
        torch.manual_seed(0)
        fixtures.train(module, fixtures.load_split(data, "train"), fixture, epochs=1)
        return self.exported(module)


def variants(source: Source, importance: str) -> dict[str, TorchPruning]:
    """The ways of rounding, and of pruning attention where there is some."""
    attention = any(isinstance(m, fixtures.Attention) for m in source.module.modules())
    found = {}
    roundings, heads = (ROUNDINGS[:1], (False, True)) if attention else (ROUNDINGS, (False,))
    for everywhere, rounding, whole in product((True, False), roundings, heads):
        label = f"{'all layers' if everywhere else 'each layer'}, round to {rounding}"
        label += f", {'whole' if whole else 'narrower'} heads" if attention else ""
        found[label] = TorchPruning(source, importance, rounding, everywhere, whole)
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's and the pruner's chatter."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
