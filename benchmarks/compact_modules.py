"""The torch modules that the compact networks were exported from, made again from their ONNX files.

Where the export folded a batch normalisation into a convolution, the convolution has the folded weights and the
normalisation does nothing but add the bias. It gets the statistics of what it sees of the calibration inputs, and a
scale that makes good for them: it goes on computing the same, and training finds it as training would have left it.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from hwpass.runtime.sessions import open_session, run_session

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from fixtures import train_compact  # noqa: E402

#: By the kind of a node: the place of its first weight among its inputs, and the modules that are exported as it.
NODES: dict[str, tuple[int, tuple[Any, ...]]] = {
    "Conv": (1, (nn.Conv1d, nn.Conv2d)),
    "Gemm": (1, (nn.Linear,)),
    "MatMul": (1, (nn.Linear,)),
    "GRU": (1, (nn.GRU,)),
    "Gather": (0, (nn.Embedding,)),
    "LayerNormalization": (1, (nn.LayerNorm,)),
    "BatchNormalization": (1, (nn.BatchNorm2d,)),
}
KINDS = tuple({kind for _, kinds in NODES.values() for kind in kinds})


def restored(network: Path, samples: NDArray[Any]) -> nn.Module:
    """The module with the weights of its ONNX file. Ends the program where it does not compute the same."""
    module: nn.Module = train_compact.NETWORKS[network.stem].build().eval()
    graph = onnx.load(network).graph
    stored = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    nodes = iter([n for n in graph.node if n.op_type in NODES and n.input[NODES[n.op_type][0]] in stored])
    inputs = torch.from_numpy(np.ascontiguousarray(samples))
    done: set[int] = set()
    folded: dict[nn.Module, Tensor] = {}
    bias = None  # of the convolution before, which has no place for one: that of a normalisation
    for part in in_order(module, inputs[:2]):
        if bias is not None:
            folded[part], bias = bias, None
            continue
        for layer in range(part.num_layers if isinstance(part, nn.GRU) else 1):
            places, values = matched(part, layer, next(nodes), stored)
            fill(places, values)
            done |= set(map(id, places))
            bias = values[len(places)] if len(values) > len(places) else None
    done |= {id(parameter) for part in folded for parameter in part.parameters()}
    left = {name: p for name, p in module.named_parameters() if id(p) not in done}
    fill(list(left.values()), [stored[name] for name in left])
    settle(module, folded, inputs)
    compare(network, module, samples)
    return module


def in_order(module: nn.Module, inputs: Tensor) -> list[nn.Module]:
    """The parts that have weights, as they are run."""
    found: list[nn.Module] = []
    with ExitStack() as stack, torch.no_grad():
        for part in module.modules():
            if isinstance(part, KINDS):
                hook = part.register_forward_pre_hook(lambda part, _: found.append(part))
                stack.callback(hook.remove)
        module(inputs)
    return found


def matched(part: nn.Module, layer: int, node: Any, stored: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The tensors of a part and the weights of its node, in the same order."""
    first, kinds = NODES[node.op_type]
    if not isinstance(part, kinds):
        raise SystemExit(f"{part} comes where the ONNX file has {node.op_type}")
    values = [stored[name] for name in node.input[first:] if name in stored]
    if isinstance(part, nn.GRU):
        names = [f"{name}_l{layer}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        return [getattr(part, name) for name in names], recurrent(*values)
    if node.op_type == "MatMul":  # its bias is that of an Add, which keeps the name
        return [part.get_parameter("weight")], [values[0].T]
    named = ("weight", "bias", "running_mean", "running_var")
    return [place for name in named if (place := getattr(part, name, None)) is not None], values


def recurrent(inputs: Tensor, states: Tensor, biases: Tensor) -> list[Tensor]:
    """Weights of a GRU in torch's order of gates: ONNX has update, reset, new."""
    found = []
    for tensor in (inputs[0], states[0], *biases[0].chunk(2)):
        update, reset, new = tensor.chunk(3)
        found.append(torch.cat([reset, update, new]))
    return found


def fill(places: list[Tensor], values: list[Tensor]) -> None:
    """Copy weights to their places. Ends the program where they do not fit."""
    with torch.no_grad():
        for place, value in zip(places, values, strict=False):
            if place.shape != value.shape:
                raise SystemExit(f"weights of {tuple(value.shape)} for {tuple(place.shape)}")
            place.copy_(value)


def settle(module: nn.Module, folded: dict[nn.Module, Tensor], inputs: Tensor) -> None:
    """Make normalisations that were folded add their bias alone, with the statistics of their inputs."""

    def before(norm: Any, given: tuple[Tensor]) -> None:
        variance, mean = torch.var_mean(given[0], (0, 2, 3), correction=0)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.copy_(folded[norm] + mean)

    with ExitStack() as stack, torch.no_grad():
        for norm in folded:
            if not isinstance(norm, nn.BatchNorm2d):
                raise SystemExit(f"the ONNX file has a bias that {norm} has no place for")
            stack.callback(norm.register_forward_pre_hook(before).remove)
        module(inputs)


def compare(network: Path, module: nn.Module, samples: NDArray[Any]) -> None:
    """End the program where the module does not compute what ONNX Runtime does."""
    model = onnx.load(network)
    expected = run_session(open_session(model), {model.graph.input[0].name: samples[:256]})["logits"]
    with torch.no_grad():
        found = module(torch.from_numpy(np.ascontiguousarray(samples[:256]))).numpy()
    if not np.allclose(expected, found, rtol=1e-3, atol=1e-3):
        raise SystemExit(f"{network}: the module made of it is off by {np.abs(expected - found).max():.2g}")
