"""The blocked layout's rules, by hand and against the graphs that ONNX Runtime writes on this machine."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwpass.cost.kernels import Kernels
from hwpass.cost_models import load_target
from hwpass.cost_models.blocked import BlockedLayout
from hwpass.cost_models.work import Work
from hwpass.coupling.groups import couple
from hwpass.model.model import Model

MakeWork = Callable[..., Work]
RULES = BlockedLayout(block=8, entry=4, exit=1)


def one(make_work: MakeWork, rules: BlockedLayout = RULES, **kernel: object) -> tuple[bool, bool]:
    reads, writes = rules.masks(make_work([kernel], [(-1, 0, float(kernel.get("k", 1)))]))  # type: ignore[arg-type]
    return bool(reads[0, 0]), bool(writes[0, 0])


def test_dense_convolutions(make_work: MakeWork) -> None:
    def conv(k: int, n: int) -> tuple[bool, bool]:
        return one(make_work, kind="conv", m=9, n=n, k=k)

    assert conv(64, 64) == (True, True)
    assert conv(60, 61) == (True, True)  # a multiple of 4 goes in; any number comes out, padded
    assert conv(63, 64) == (False, False)
    assert conv(3, 64) == (False, True)  # fewer than a block: reads the plain layout
    strict = BlockedLayout(block=4, entry=4, exit=4)
    assert one(make_work, strict, kind="conv", m=9, n=61, k=60) == (False, False)


def test_depthwise_and_grouped_convolutions(make_work: MakeWork) -> None:
    assert one(make_work, kind="depthwise", m=9, groups=60, n=1, k=1) == (True, True)
    assert one(make_work, kind="depthwise", m=9, groups=63, n=1, k=1) == (False, False)
    assert one(make_work, kind="grouped", m=9, groups=4, n=16, k=16) == (True, True)
    assert one(make_work, kind="grouped", m=9, groups=4, n=12, k=16) == (False, False)


def test_a_tensor_is_converted_once(make_work: MakeWork) -> None:
    blocked = {"kind": "conv", "m": 9, "n": 16, "k": 16}
    other = {"kind": "conv", "m": 9, "n": 15, "k": 15}
    # 0 (blocked, 16 channels) feeds 1, 2 (plain) and 3 (blocked); 1 and 2 share one conversion, which 1 pays.
    # 1 and 2 write plain tensors, and 3 leaves the model: one conversion more. 0 converts the model's input.
    work = make_work(
        [blocked, {**other, "k": 15}, other, blocked],
        [(-1, 0, 16.0), (0, 1, 16.0), (0, 2, 16.0), (0, 3, 16.0)],
    )
    reads, writes = RULES.masks(work)
    count, moved = RULES.conversions(work, reads, writes)
    assert count[0].tolist() == [1, 1, 0, 1]
    assert moved[0, :2].tolist() == [6400, 6400]  # 16 channels x 400 bytes


def test_conversions_move_padded_channels(make_work: MakeWork) -> None:
    blocked = {"kind": "conv", "m": 9, "n": 13, "k": 16}
    plain = {"kind": "conv", "m": 9, "n": 8, "k": 13}
    work = make_work([blocked, plain], [(-1, 0, 16.0), (0, 1, 13.0)])
    _, moved = RULES.conversions(work, *RULES.masks(work))
    assert moved[0, 1] == pytest.approx(13 * 400 * 16 / 13)


class Chain:
    """A small net for the comparison with ONNX Runtime."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def conv(self, x: str, k: int, n: int, window: int = 1, group: int = 1, act: str = "Relu") -> str:
        shape = (n, k // group, window, window)
        values = np.random.default_rng(len(self.weights)).standard_normal(shape).astype(np.float32)
        weight = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, weight))
        y = self.op("Conv", x, weight, kernel_shape=[window] * 2, pads=[window // 2] * 4, group=group)
        return self.op(act, y) if act else y

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name, **attributes))
        return name

    def model(self, output: str) -> onnx.ModelProto:
        value = helper.make_tensor_value_info
        inputs = [value("x", TensorProto.FLOAT, [1, 64, 8, 8])]
        outputs = [value(output, TensorProto.FLOAT, None)]
        graph = helper.make_graph(self.nodes, "chain", inputs, outputs, self.weights)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        return onnx.shape_inference.infer_shapes(proto)


def dense(c: int) -> onnx.ModelProto:
    net = Chain()
    y = net.conv(net.conv("x", 64, c, 3), c, c, 3)
    return net.model(net.conv(y, c, 64))


def depthwise(c: int) -> onnx.ModelProto:
    net = Chain()
    y = net.conv(net.conv("x", 64, c), c, c, 3, group=c)
    return net.model(net.conv(y, c, 64))


def residual(c: int) -> onnx.ModelProto:
    net = Chain()
    first = net.conv("x", 64, c)
    y = net.conv(net.conv(first, c, c, 3), c, c, 3, act="")
    return net.model(net.conv(net.op("Relu", net.op("Add", y, first)), c, 64))


def pooled(c: int) -> onnx.ModelProto:
    net = Chain()
    y = net.op("MaxPool", net.conv("x", 64, c), kernel_shape=[2, 2], strides=[2, 2])
    return net.model(net.conv(y, c, 64))


def joined(c: int) -> onnx.ModelProto:
    net = Chain()
    y = net.op("Concat", net.conv("x", 64, c), net.conv("x", 64, 64), axis=1)
    return net.model(net.conv(y, c + 64, 64))


def _block() -> int:
    info = Path("/proc/cpuinfo")
    flags = info.read_text() if info.exists() else ""
    return 16 if "avx512f" in flags else 8 if "avx2" in flags else 0


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64") or not _block(), reason="x86 with AVX2 alone")
@pytest.mark.parametrize("make", [dense, depthwise, residual, pooled, joined], ids=lambda f: f.__name__)
@pytest.mark.parametrize("channels", [64, 63, 62, 60, 56, 52, 48, 47, 32, 20])
def test_the_rules_are_onnx_runtimes(make: Callable[[int], onnx.ModelProto], channels: int, tmp_path: Path) -> None:
    model = make(channels)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "optimized.onnx").graph.node
    inside = [n.op_type for n in nodes if n.domain == "com.microsoft.nchwc"]

    kernels = Kernels(couple(Model.load(model)), load_target("server-cpu").fusion)
    work = kernels.work(np.round(kernels.dense)[None, :])
    work.m[:], work.n[:], work.k[:], work.groups[:] = (np.round(a) for a in (work.m, work.n, work.k, work.groups))
    work.channels[:] = np.round(work.channels)
    rules = BlockedLayout(block=_block(), entry=4, exit=1)
    reads, writes = rules.masks(work)
    count, _ = rules.conversions(work, reads, writes)
    convolutions = np.isin(work.kind, ["conv", "depthwise", "grouped"])
    assert inside.count("Conv") == ((reads | writes)[0] & convolutions).sum()
    assert sum(op.startswith("Reorder") for op in inside) == count.sum()
