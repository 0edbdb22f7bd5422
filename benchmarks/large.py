"""Memory on a model above 2 GB: a perceptron with external data is made, pruned in a fresh process and measured.

python benchmarks/large.py [--layers 10] [--width 7936]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from common import fresh, show
from onnx import TensorProto, helper

MB = 1e6


def perceptron(folder: Path, layers: int, width: int) -> tuple[Path, int]:
    """Write `layers` products of [width, width] with ReLUs between them; the file and the bytes of its weights."""
    rng = np.random.default_rng(0)
    nodes, weights, name = [], [], "x"
    with open(folder / "weights.bin", "wb") as stream:
        for layer in range(layers):
            tensor = TensorProto(name=f"w{layer}", data_type=TensorProto.FLOAT, dims=[width, width])
            tensor.data_location = TensorProto.EXTERNAL
            entries = {"location": "weights.bin", "offset": stream.tell(), "length": 4 * width * width}
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=str(value))
            scale = np.float32(np.sqrt(2 / width))
            for _ in range(width // 256):  # a slice at a time: this process need not hold a layer
                (rng.standard_normal((256, width), dtype=np.float32) * scale).tofile(stream)
            nodes += [
                helper.make_node("MatMul", [name, tensor.name], [f"h{layer}"]),
                helper.make_node("Relu", [f"h{layer}"], [f"y{layer}"]),
            ]
            weights.append(tensor)
            name = f"y{layer}"
        size = stream.tell()
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", width])
    made = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width])
    graph = helper.make_graph(nodes, "perceptron", [given], [made], weights)
    path = folder / "perceptron.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path, size


def worker(path: str) -> dict[str, float]:
    """Prune in this process, save, and say what it took."""
    import resource
    import time

    import hwpass

    start = time.perf_counter()
    result = hwpass.run(path, "server-cpu", macs=0.5, score="l2")
    result.save(Path(path).with_name("pruned.onnx"))
    exactness = result.report.verdicts.exactness
    assert exactness is not None
    assert exactness.passed
    assert exactness.max_rel is not None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds = time.perf_counter() - start
    return {"peak": peak, "seconds": seconds, "exact": exactness.max_rel, "macs": result.report.ratio.macs or 0.0}


def main() -> None:
    """Make the model, run the worker, compare with the bound of 1.5 times the model plus 500 MB."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--width", type=int, default=7936, help="a multiple of 256")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path, size = perceptron(Path(folder), options.layers, options.width)
        found = fresh(Path(__file__), "--worker", str(path))
    if "error" in found:
        raise SystemExit(found["error"])
    bound = 1.5 * size + 500 * MB
    show(
        "--macs 0.5x --score l2 --target server-cpu",
        ["weights, MB", "peak resident memory, MB", "bound, MB", "within", "seconds", "MACs left", "exactness"],
        [[size / MB, found["peak"] / MB, bound / MB, "yes" if found["peak"] <= bound else "no", found["seconds"],
          found["macs"], f"{found['exact']:.1e}"]],
    )  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        import json

        print(json.dumps(worker(sys.argv[2])))
    else:
        main()
