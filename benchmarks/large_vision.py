"""Memory on large activations: a vision transformer with a dynamic batch is made, pruned in a fresh process, measured.

python benchmarks/large_vision.py [--image 1024] [--width 768] [--layers 12] [--score l2]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from common import fresh, memory_bound, show
from onnx import TensorProto, helper, numpy_helper

#: What a run on the default sizes may take.
BOUND_MB = 5000

PATCH = 16


class Transformer:
    """Nodes and weights of a pre-norm vision transformer, as exporters write it at operator set 17."""

    def __init__(self, width: int, heads: int) -> None:
        self.width, self.heads = width, heads
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)

    def weight(self, *shape: int, fan: int = 0, value: float | None = None) -> str:
        """A weight of variance 1 / fan, or of one value."""
        name = f"w{len(self.weights)}"
        array = np.full(shape, value, np.float32) if value is not None else None
        if array is None:
            array = self.rng.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(fan))
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def ints(self, *values: int) -> str:
        """A shape."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, np.int64), name))
        return name

    def op(self, op: str, *inputs: str, **attributes: Any) -> str:
        """A node of one output."""
        output = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    def linear(self, x: str, inputs: int, outputs: int) -> str:
        """A MatMul and its bias."""
        product = self.op("MatMul", x, self.weight(inputs, outputs, fan=inputs))
        return self.op("Add", product, self.weight(outputs, fan=outputs))

    def norm(self, x: str) -> str:
        """A layer normalisation."""
        scale, bias = self.weight(self.width, value=1.0), self.weight(self.width, value=0.0)
        return self.op("LayerNormalization", x, scale, bias, axis=-1)

    def attention(self, x: str) -> str:
        """Self-attention over all patches."""
        size = self.width // self.heads
        parts = []
        for order in ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)):
            part = self.op("Reshape", self.linear(x, self.width, self.width), self.ints(0, 0, self.heads, size))
            parts.append(self.op("Transpose", part, perm=list(order)))
        scores = self.op("Mul", self.op("MatMul", parts[0], parts[1]), self.weight(1, value=size**-0.5))
        mixed = self.op("MatMul", self.op("Softmax", scores, axis=-1), parts[2])
        joined = self.op("Reshape", self.op("Transpose", mixed, perm=[0, 2, 1, 3]), self.ints(0, 0, self.width))
        return self.linear(joined, self.width, self.width)

    def gelu(self, x: str) -> str:
        """x (1 + erf(x / sqrt 2)) / 2."""
        erf = self.op("Erf", self.op("Div", x, self.weight(1, value=2**0.5)))
        half = self.op("Mul", x, self.weight(1, value=0.5))
        return self.op("Mul", half, self.op("Add", erf, self.weight(1, value=1.0)))

    def model(self, image: int, layers: int) -> onnx.ModelProto:
        """Patches, blocks, the mean over patches, a classifier."""
        side = image // PATCH
        patches = self.weight(self.width, 3, PATCH, PATCH, fan=3 * PATCH * PATCH)
        x = self.op("Conv", "image", patches, strides=[PATCH] * 2)
        x = self.op("Transpose", self.op("Reshape", x, self.ints(0, self.width, side * side)), perm=[0, 2, 1])
        x = self.op("Add", x, self.weight(1, side * side, self.width, fan=4))
        for _ in range(layers):
            x = self.op("Add", x, self.attention(self.norm(x)))
            hidden = self.gelu(self.linear(self.norm(x), self.width, 4 * self.width))
            x = self.op("Add", x, self.linear(hidden, 4 * self.width, self.width))
        x = self.linear(self.op("ReduceMean", self.norm(x), axes=[1], keepdims=0), self.width, 1000)
        given = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, image, image])
        made = helper.make_tensor_value_info(x, TensorProto.FLOAT, ["N", 1000])
        graph = helper.make_graph(self.nodes, "vision", [given], [made], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def worker(path: str, score: str) -> dict[str, float]:
    """Prune in this process, save, and say what it took."""
    import resource
    import time

    import hwpass

    start = time.perf_counter()
    result = hwpass.run(path, "server-cpu", macs=0.6, score=score)
    result.save(Path(path).with_name("pruned.onnx"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    exactness = result.report.verdicts.exactness
    assert exactness is not None
    return {"peak": peak, "seconds": time.perf_counter() - start, "exact": exactness.max_rel or 0.0}


def main() -> None:
    """Make the model, run the worker, compare with the bound."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", type=int, default=1024)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--score", default="l2")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vision.onnx"
        onnx.save(Transformer(options.width, options.width // 64).model(options.image, options.layers), path)
        sizes = memory_bound(path)
        found = fresh(Path(__file__), "--worker", str(path), options.score, timeout=3600)
    if "error" in found:
        raise SystemExit(found["error"])
    columns = ["weights, MB", "activations, MB", "peak, MB", "bound, MB", "within", "seconds", "exactness"]
    within = "yes" if found["peak"] <= BOUND_MB else "no"
    row = [sizes["size_mb"], sizes["activations_mb"], found["peak"], BOUND_MB, within, found["seconds"]]
    title = f"--macs 0.6x --score {options.score} at {options.image} x {options.image}"
    show(title, columns, [[*row, f"{found['exact']:.1e}"]])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        import json

        print(json.dumps(worker(*sys.argv[2:4])))
    else:
        main()
