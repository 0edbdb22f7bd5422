"""Weights set to zero: points lost on the fixtures, and 2:4 on a large network, checked by counting.

    python benchmarks/sparse_weights.py fixtures                        # 90 %, beside onnxsim where it is installed
    python benchmarks/sparse_weights.py fixtures --pattern 2:4
    python benchmarks/sparse_weights.py network tv_resnet50 --zoo FOLDER  # 2:4: axis, pattern, error of the outputs

Both have the same 1,024 unlabelled images. What onnxsim 0.8.1 leaves dense (first and last layer too where it cannot
look at them) is said by the share of zeros over all weights of products. The network has the random weights of its
loader and normalisations that fit them: relative errors of its outputs mean something, classes do not.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
from common import show, zoo_module
from onnx import numpy_helper

import hwpass
from hwpass import Context, PassManager
from hwpass.data.segments import Segments
from hwpass.runtime.calibration import load_calibration
from hwpass.runtime.inputs import input_specs

FIXTURES = Path(__file__).parent.parent / "fixtures"
NETS = ("cnn", "densenet", "mobilenet", "resnet_se", "vit")


def zeros(model: onnx.ModelProto) -> float:
    """The share of zeros over the weights of Conv, Gemm and MatMul."""
    count = size = 0
    for _, values in weights(model):
        count, size = count + int((values == 0).sum()), size + values.size
    return count / max(size, 1)


def weights(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, np.ndarray]]:
    """The constant weights of products, sparse ones made dense here."""
    values = {t.name: t for t in model.graph.initializer}
    sparse = {t.values.name: t for t in model.graph.sparse_initializer}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul") and len(node.input) > 1:
            if node.input[1] in values:
                yield node, numpy_helper.to_array(values[node.input[1]])
            elif node.input[1] in sparse:
                held = sparse[node.input[1]]
                whole = np.zeros(int(np.prod(held.dims)), np.float32)
                whole[numpy_helper.to_array(held.indices)] = numpy_helper.to_array(held.values)
                yield node, whole.reshape(tuple(held.dims))


def two_of_four(model: onnx.ModelProto) -> tuple[int, int, list[str]]:
    """Weights that have at most two of every four consecutive input channels, for each output and each position of the
    window (as NVIDIA's TensorRT wants them), how many weights there are, and the names of the rest."""
    good, every, rest = 0, 0, []
    for node, values in weights(model):
        axis = 1 if node.op_type == "Conv" else 0
        if node.op_type == "Gemm":
            axis = next((a.i for a in node.attribute if a.name == "transB"), 0)
        every += 1
        rows = np.moveaxis(values, axis, -1)
        count = 0
        if rows.shape[-1] % 4 == 0:
            for start in range(0, rows.shape[-1], 4):
                count = max(count, int(np.count_nonzero(rows[..., start : start + 4], axis=-1).max()))
        if 0 < count <= 2:
            good += 1
        else:
            rest.append(f"{node.name} {list(values.shape)}")
    return good, every, rest


def accuracy(model: onnx.ModelProto, part: str = "test") -> float:
    """Per cent of a fixture's labelled images."""
    with np.load(FIXTURES / f"{part}.npz") as data:
        images, labels = data["image"], data["label"]
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    parts = [session.run(None, {"image": images[i : i + 100]})[0] for i in range(0, len(images), 100)]
    return 100.0 * float((np.concatenate(parts).argmax(1) == labels).mean())


def hwpass_way(options: str) -> Callable[[Path], onnx.ModelProto]:
    """A pipeline with prune-weights and the proof."""

    def pruned(path: Path) -> onnx.ModelProto:
        pipeline = f"fold,fuse-bn,prune-weights{{{options}}},verify"
        return hwpass.run(path, "server-cpu", pipeline=pipeline, calib=FIXTURES / "calib.npz").model.proto()

    return pruned


def onnxsim_way(name: str, **options: Any) -> Callable[[Path], onnx.ModelProto]:
    """What onnxsim makes of the simplified network on the same images."""

    def pruned(path: Path) -> onnx.ModelProto:
        import onnxsim
        from peers_onnxsim import batches

        simplified = onnxsim.simplify(onnx.load(path))[0]
        return getattr(onnxsim, name)(simplified, calibration_data=batches(path), **options)  # type: ignore[no-any-return]

    return pruned


def fixtures(pattern: str, sparsity: float, nets: list[str]) -> None:
    """Points lost by each way on each fixture."""
    asked = f"pattern={pattern}" if ":" in pattern else f"sparsity={sparsity}"
    ways = {
        "magnitude": hwpass_way(f"{asked},zeros=magnitude,refit=false,spread=uniform"),
        "magnitude, refitted": hwpass_way(f"{asked},zeros=magnitude,spread=uniform"),
        "gram, each layer": hwpass_way(f"{asked},spread=uniform"),
        "gram": hwpass_way(asked),
    }
    if importlib.util.find_spec("onnxsim"):
        n_m: dict[str, Any] = (
            {"n": int(pattern.split(":")[0]), "m": int(pattern.split(":")[1])} if ":" in pattern else {}
        )
        given = n_m or {"sparsity": sparsity}
        ways["onnxsim wanda"] = onnxsim_way("apply_wanda_pruning", **given)
        ways["onnxsim sparsegpt"] = onnxsim_way("apply_sparsegpt_pruning", **given)
    rows = []
    for net in nets:
        path = FIXTURES / f"{net}.onnx"
        dense = accuracy(onnx.load(path))
        for name, way in ways.items():
            start = time.perf_counter()
            model = way(path)
            taken = time.perf_counter() - start
            found = accuracy(model)
            rows.append([net, name, f"{zeros(model):.3f}", f"{dense:.2f}", f"{found:.2f}", f"{dense - found:.2f}",
                         f"{taken:.1f}"])  # fmt: skip
            print(" | ".join(rows[-1]), flush=True)
    show(f"{pattern}, {asked}", ["network", "way", "zeros", "dense %", "%", "points lost", "s"], rows)


def normalised(proto: onnx.ModelProto, name: str, images: np.ndarray) -> onnx.ModelProto:
    """The network with its normalisations set to what they see on the images, layer by layer: with other statistics
    random weights hand on less and less of what tells images apart."""
    model = hwpass.load(proto)
    batches = [{name: images[i : i + 8]} for i in range(0, len(images), 8)]
    with Segments(model, batches, room=1 << 29) as running:
        for place, node in enumerate(running.nodes):
            if node.op == "BatchNormalization":
                running.advance(place)
                seen = [np.asarray(v, np.float64) for v in running.value(node.inputs[0].name)]
                rows = np.concatenate([np.moveaxis(v, 1, -1).reshape(-1, v.shape[1]) for v in seen])
                for position, value in ((3, rows.mean(axis=0)), (4, rows.var(axis=0))):
                    tensor = f"{node.outputs[0].name}_{position}"
                    node.inputs[position] = gs.Constant(tensor, value.astype(np.float32))
    return model.proto()


def network(folder: Path, name: str, samples: int, side: int) -> None:
    """2:4 on a network of the zoo: the pattern counted, and the error of its outputs beside magnitude's."""
    proto = zoo_module(folder).load_zoo(name)
    given = proto.graph.input[0]
    rng = np.random.default_rng(0)
    coarse = rng.standard_normal((samples + 16, 3, side // 8, side // 8)).repeat(8, axis=2).repeat(8, axis=3)
    images = (coarse + 0.3 * rng.standard_normal((samples + 16, 3, side, side))).astype(np.float32)
    proto = normalised(proto, given.name, images[: min(samples, 32)])
    data = load_calibration({given.name: images[:samples]}, input_specs(proto))
    held = images[samples:]

    def outputs(model: onnx.ModelProto) -> np.ndarray:
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return np.concatenate([session.run(None, {given.name: held[i : i + 4]})[0] for i in range(0, len(held), 4)])

    dense = outputs(proto)
    rows = []
    for label, options in {"magnitude": ",zeros=magnitude,refit=false", "gram": ""}.items():
        start = time.perf_counter()
        manager = PassManager.parse(f"fold,fuse-bn,prune-weights{{pattern=2:4,store=dense{options}}}")
        context = Context(original=proto, calibration=data)
        model = manager.run(hwpass.load(proto), context).proto()
        taken = time.perf_counter() - start
        good, every, rest = two_of_four(model)
        gap = float(np.square(outputs(model) - dense).sum())
        shares = [gap / float(np.square(part).sum()) for part in (dense, dense - dense.mean(axis=0))]
        told: Any = context.findings.notes["prune-weights"]
        layers = [layer for layer in told["layers"].values() if "error" in layer]
        errors = [(layer["error"], layer["error by magnitude"]) for layer in layers]
        each = "" if not errors else (
            f"{np.median([a for a, _ in errors]):.3g}, by magnitude {np.median([b for _, b in errors]):.3g},"
            f" ratio {np.median([a / b for a, b in errors]):.3g}"
        )  # fmt: skip
        rows.append([name, label, f"{good} of {every}", "; ".join(rest), *(f"{s:.4g}" for s in shares), each,
                     f"{taken:.0f}"])  # fmt: skip
        print(" | ".join(rows[-1]), flush=True)
    heads = ["network", "way", "have it", "others", "error / power", "error / variance", "error of a layer", "s"]
    show("2:4, squared errors; those of layers are held out, medians", heads, rows)


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("fixtures", "network"))
    parser.add_argument("names", nargs="*", help="fixtures, or the network of the zoo")
    parser.add_argument("--pattern", default="unstructured")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--side", type=int, default=224, help="of the images of a network")
    parser.add_argument("--zoo", type=Path)
    options = parser.parse_args()
    if options.what == "fixtures":
        fixtures(options.pattern, options.sparsity, options.names or list(NETS))
    else:
        network(options.zoo, options.names[0], options.samples, options.side)


if __name__ == "__main__":
    main()
