"""Measured against predicted: kernels and whole networks in ONNX Runtime, one thread, at many channel counts.

    python benchmarks/kernels.py                         # everything, a few minutes
    python benchmarks/kernels.py --only conv3 --only mobilenet --sessions 9

Each family holds variants of one network; the first is the dense one that the others are compared with. A
sign error is a variant predicted faster than the dense network that measures slower in the median of the
rounds (or the reverse), by more than the margin. The nets are made here, with random weights: latency alone
is meant.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau, spearmanr

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hwpass.cost.kernels import Kernels
from hwpass.cost_models import CostModel, cost_model, load_target
from hwpass.coupling.groups import couple
from hwpass.model.model import Model

Widths = Callable[[int], int]  # a dense channel count -> the variant's


class Net:
    """Builds a convolutional network node by node; `x` is the current tensor, `c` its channels."""

    def __init__(self, channels: int, size: int) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.shape = [1, channels, size, size] if size else [1, channels]
        self.x, self.c = "input", channels

    def weight(self, *shape: int) -> str:
        fan_in = max(int(np.prod(shape[1:])), 1)
        name = f"w{len(self.weights)}"
        values = self.rng.standard_normal(shape) * (1.4 / np.sqrt(fan_in))
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs or (self.x,)), [name], name, **attributes))
        self.x = name
        return name

    def conv(self, channels: int, window: int = 1, stride: int = 1, group: int = 1, act: str = "Relu") -> str:
        kernel = self.weight(channels, self.c // group, window, window)
        shape = {"kernel_shape": [window] * 2, "strides": [stride] * 2, "pads": [window // 2] * 4}
        self.op("Conv", self.x, kernel, self.weight(channels), group=group, **shape)
        self.c = channels
        return self.act(act)

    def act(self, kind: str) -> str:
        if kind == "Relu6":
            if not any(w.name == "six" for w in self.weights):
                bounds = {"zero": np.float32(0), "six": np.float32(6)}
                self.weights += [numpy_helper.from_array(np.asarray(v), k) for k, v in bounds.items()]
            return self.op("Clip", self.x, "zero", "six")
        if kind == "SiLU":
            before = self.x
            return self.op("Mul", before, self.op("Sigmoid"))
        return self.op(kind) if kind else self.x

    def pool(self, window: int, stride: int, kind: str = "MaxPool") -> str:
        pads = [window // 2 if window == 3 else 0] * 4
        return self.op(kind, kernel_shape=[window] * 2, strides=[stride] * 2, pads=pads)

    def squeeze(self, channels: int) -> None:
        """Squeeze-and-excitation over the current tensor."""
        before, c = self.x, self.c
        self.op("GlobalAveragePool")
        self.conv(channels)
        self.conv(c, act="Sigmoid")
        self.op("Mul", before, self.x)

    def classifier(self, classes: int = 1000) -> None:
        self.op("GlobalAveragePool")
        self.op("Flatten")
        self.gemm(classes)

    def gemm(self, columns: int) -> None:
        self.op("Gemm", self.x, self.weight(columns, self.c), self.weight(columns), transB=1)
        self.c = columns

    def model(self, name: str) -> onnx.ModelProto:
        value = helper.make_tensor_value_info
        inputs = [value("input", TensorProto.FLOAT, self.shape)]
        outputs = [value(self.x, TensorProto.FLOAT, None)]
        graph = helper.make_graph(self.nodes, name, inputs, outputs, self.weights)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        return onnx.shape_inference.infer_shapes(proto)


def conv3(w: Widths) -> Net:
    net = Net(64, 28)
    for channels in (w(64), w(64), w(64), 64):
        net.conv(channels, 3)
    return net


def separable(w: Widths) -> Net:
    net = Net(64, 28)
    for _ in range(3):
        net.conv(w(64), act="Relu6")
        net.conv(w(64), 3, group=w(64), act="Relu6")
    net.conv(64)
    return net


def gemm(w: Widths) -> Net:
    net = Net(1024, 0)
    for _ in range(3):
        net.gemm(w(1024))
        net.act("Relu")
    net.gemm(100)
    return net


def mobilenet(w: Widths) -> Net:
    net = Net(3, 224)
    net.conv(w(32), 3, 2, act="Relu6")
    stages = zip((16, 24, 32, 64, 96, 160, 320), (1, 2, 3, 4, 3, 3, 1), (1, 2, 2, 2, 1, 2, 1), strict=True)
    for stage, (out, repeats, first) in enumerate(stages):
        for i in range(repeats):
            skip, same = net.x, net.c == w(out) and i > 0
            hidden = w(6 * out) if stage else net.c
            if stage:
                net.conv(hidden, act="Relu6")
            net.conv(hidden, 3, first if i == 0 else 1, group=hidden, act="Relu6")
            net.conv(w(out), act="")
            if same:
                net.op("Add", net.x, skip)
    net.conv(w(1280), act="Relu6")
    net.classifier()
    return net


def residual(w: Widths, depths: tuple[int, ...], bottleneck: bool) -> Net:
    net = Net(3, 224)
    net.conv(w(64), 7, 2)
    net.pool(3, 2)
    for stage, depth in enumerate(depths):
        inner = w(64 * 2**stage)
        out = w(256 * 2**stage) if bottleneck else inner
        for i in range(depth):
            stride = 2 if stage and i == 0 else 1
            skip, c = net.x, net.c
            if bottleneck:
                net.conv(inner)
                net.conv(inner, 3, stride)
            else:
                net.conv(inner, 3, stride)
            net.conv(out, 1 if bottleneck else 3, act="")
            last = net.x
            if c != out or stride > 1:
                net.x, net.c = skip, c
                skip = net.conv(out, 1, stride, act="")
            net.op("Add", last, skip)
            net.c = out
            net.act("Relu")
    net.classifier()
    return net


def vgg(w: Widths) -> Net:
    net = Net(3, 112)
    for channels, repeats in ((64, 1), (128, 1), (256, 2), (512, 2), (512, 2)):
        for _ in range(repeats):
            net.conv(w(channels), 3)
        net.pool(2, 2)
    net.classifier()
    return net


def efficientnet(w: Widths) -> Net:
    net = Net(3, 224)
    net.conv(w(32), 3, 2, act="SiLU")
    depths, windows, strides = (1, 2, 2, 3, 3, 4), (3, 3, 5, 3, 5, 5), (1, 2, 2, 2, 1, 2)
    for stage, out in enumerate((16, 24, 40, 80, 112, 192)):
        repeats, window, first = depths[stage], windows[stage], strides[stage]
        for i in range(repeats):
            skip, before = net.x, net.c
            hidden = w(6 * out) if stage else net.c
            if stage:
                net.conv(hidden, act="SiLU")
            net.conv(hidden, window, first if i == 0 else 1, group=hidden, act="SiLU")
            net.squeeze(max(w(out) // 4, 4))
            net.conv(w(out), act="")
            if i and before == net.c:
                net.op("Add", net.x, skip)
    net.conv(w(1280), act="SiLU")
    net.classifier()
    return net


def squeezenet(w: Widths) -> Net:
    net = Net(3, 224)
    net.conv(w(64), 3, 2)
    for number, squeeze in enumerate((16, 16, 32, 32, 48, 48, 64, 64)):
        if number in (0, 2, 4):
            net.pool(3, 2)
        net.conv(w(squeeze))
        inner, c, expand = net.x, net.c, w(4 * squeeze)
        left = net.conv(expand)
        net.x, net.c = inner, c
        right = net.conv(expand, 3)
        net.op("Concat", left, right, axis=1)
        net.c = 2 * expand
    net.conv(1000)
    net.op("GlobalAveragePool")
    return net


def densenet(w: Widths) -> Net:
    net = Net(3, 112)
    net.conv(w(64), 7, 2)
    net.pool(3, 2)
    for block, depth in enumerate((6, 12, 8)):
        for _ in range(depth):
            before, c = net.x, net.c
            net.conv(w(128))
            new = net.conv(w(32), 3)
            net.op("Concat", before, new, axis=1)
            net.c = c + w(32)
        if block < 2:
            net.conv(w((128, 256)[block]))
            net.pool(2, 2, "AveragePool")
    net.classifier()
    return net


COLUMNS = ("variant", "measured ms", "low", "high", "predicted", "ratio", "predicted", "error")
STAIRS = (64, 63, 60, 56, 52, 48, 47, 40, 33, 32)
SCALES = ((0.9, 1), (0.75, 1), (0.7, 1), (0.7, 4), (0.75, 8), (0.7, 16), (0.5, 1), (0.5, 16))
FAMILIES: dict[str, tuple[Callable[[Widths], Net], bool]] = {
    "conv3": (conv3, True),
    "separable": (separable, True),
    "gemm": (gemm, False),
    "resnet18": (lambda w: residual(w, (2, 2, 2, 2), bottleneck=False), False),
    "resnet50": (lambda w: residual(w, (3, 4, 6, 3), bottleneck=True), False),
    **{f.__name__: (f, False) for f in (mobilenet, vgg, efficientnet, squeezenet, densenet)},
}


def scaled(factor: float, step: int) -> Widths:
    """Every channel count times the factor, to the nearest multiple of the step."""
    return lambda channels: max(step, round(channels * factor / step) * step)


def variants(family: str) -> Iterator[tuple[str, onnx.ModelProto]]:
    """(label, model), the dense one first."""
    make, stairs = FAMILIES[family]
    if stairs:
        for channels in STAIRS:
            yield str(channels), make(lambda _, channels=channels: channels).model(family)  # type: ignore[misc]
        return
    yield "dense", make(lambda channels: channels).model(family)
    for factor, step in SCALES:
        yield f"x{factor} step {step}", make(scaled(factor, step)).model(family)


@dataclass(frozen=True)
class Row:
    """One variant: milliseconds, and latencies relative to the dense network measured in the same rounds."""

    family: str
    variant: str
    measured_ms: float
    low_ms: float
    high_ms: float
    predicted_ms: float
    measured_ratio: float
    predicted_ratio: float

    def sign_error(self, margin: float) -> bool:
        """Whether prediction and measurement disagree about which is faster, by more than the margin."""
        apart = min(abs(self.measured_ratio - 1), abs(self.predicted_ratio - 1)) > margin
        return apart and (self.measured_ratio > 1) != (self.predicted_ratio > 1)


def predict(model: onnx.ModelProto, cost: CostModel) -> float:
    """Predicted milliseconds."""
    kernels = Kernels(couple(Model.load(model)), cost.target.fusion)
    return float(cost.latency(kernels.work(kernels.dense[None, :])).sum() * 1e3)


def session_ms(model: onnx.ModelProto, runs: int, clock: Callable[[], float]) -> float:
    """Median milliseconds of the warm runs of one fresh session, denormals flushed."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {i.name: np.random.default_rng(0).standard_normal(i.shape, np.float32) for i in session.get_inputs()}
    times = []
    for _ in range(runs + 2):
        start = clock()
        session.run(None, feed)
        times.append(clock() - start)
    return float(np.median(times[2:]) * 1e3)


def measure(family: str, cost: CostModel, sessions: int, runs: int, clock: Callable[[], float]) -> list[Row]:
    """Measure all variants of a family in interleaved rounds, and predict them."""
    labels, models = zip(*variants(family), strict=True)
    rounds = np.array([[session_ms(model, runs, clock) for model in models] for _ in range(sessions)])
    ratios = np.median(rounds / rounds[:, :1], axis=0)
    predicted = np.array([predict(model, cost) for model in models])
    columns = (np.median(rounds, axis=0), rounds.min(axis=0), rounds.max(axis=0), predicted, ratios)
    table = np.stack([*columns, predicted / predicted[0]], axis=1)
    return [Row(family, label, *map(float, row)) for label, row in zip(labels, table, strict=True)]


def host_target() -> str:
    """The shipped target with this machine's register block."""
    info = Path("/proc/cpuinfo")
    wide = info.exists() and "avx512f" in info.read_text()
    return "server-cpu" if wide else "server-cpu-avx2"


def summary(rows: list[Row], margin: float) -> dict[str, float]:
    """Errors over all rows; ratios leave out the dense variants, which are 1 by definition."""
    measured, predicted = np.array([r.measured_ms for r in rows]), np.array([r.predicted_ms for r in rows])
    pruned = [r for r in rows if (r.measured_ratio, r.predicted_ratio) != (1.0, 1.0)]
    ratio_predicted = [r.predicted_ratio for r in pruned]
    ratio = np.array([r.predicted_ratio / r.measured_ratio - 1 for r in pruned])
    error = np.abs(predicted / measured - 1)
    return {
        "variants": len(rows),
        "latency_median_abs_error": float(np.median(error)),
        "latency_spearman": float(spearmanr(measured, predicted)[0]),
        "ratio_median_abs_error": float(np.median(np.abs(ratio))),
        "ratio_mean_abs_error": float(np.mean(np.abs(ratio))),
        "ratio_within_15_percent": float(np.mean(np.abs(ratio) <= 0.15)),
        "ratio_kendall": float(kendalltau([r.measured_ratio for r in pruned], ratio_predicted)[0]),
        "sign_errors": sum(r.sign_error(margin) for r in pruned),
    }


@click.command()
@click.option("--target", default=host_target, help="Target to compare with (default: this machine's kind).")
@click.option("--only", multiple=True, type=click.Choice(list(FAMILIES)), help="These families alone.")
@click.option("--sessions", default=5, show_default=True, help="Fresh sessions per variant.")
@click.option("--runs", default=20, show_default=True, help="Warm runs per session.")
@click.option("--cpu-time", is_flag=True, help="Count the thread's CPU time: on a machine others use too.")
@click.option("--margin", default=0.03, show_default=True, help="Smaller differences are no sign error.")
@click.option("--json", "path", type=click.Path(dir_okay=False), help="Write the rows here too.")
def main(
    target: str,
    only: tuple[str, ...],
    sessions: int,
    runs: int,
    cpu_time: bool,
    margin: float,
    path: str | None,
) -> None:
    """Measure kernels and networks in ONNX Runtime and compare with a target's predictions."""
    console, cost = Console(), cost_model(load_target(target))
    clock = time.thread_time if cpu_time else time.perf_counter
    rows: list[Row] = []
    for family in only or FAMILIES:
        table = Table(*COLUMNS, title=family)
        for row in measure(family, cost, sessions, runs, clock):
            rows.append(row)
            error = row.predicted_ratio / row.measured_ratio - 1
            mark = " SIGN" if row.sign_error(margin) else ""
            numbers = [f"{number:.3f}" for number in astuple(row)[2:]]
            table.add_row(row.variant, *numbers, f"{error:+.0%}{mark}")
        console.print(table)
    figures = summary(rows, margin)
    for key, value in figures.items():
        console.print(f"{key:26} {value:.3f}" if isinstance(value, float) else f"{key:26} {value}")
    if path:
        content = {"target": target, "summary": figures, "rows": [asdict(row) for row in rows]}
        Path(path).write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
