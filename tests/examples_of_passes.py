"""A small graph for every pass, and what the pass makes of it as text: `tests/passes/golden/PASS.txt`.

python tests/examples_of_passes.py [PASS...]     # write the texts again, to be reviewed as text
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from sketch import Sketch

from hwpass.context import Context
from hwpass.cost_models import load_target
from hwpass.coupling.groups import couple
from hwpass.instruments.graph_diff import graph_diff
from hwpass.instruments.recording import Recording
from hwpass.manager import PassManager, passes
from hwpass.model.model import Model
from hwpass.planning.plan import Plan
from hwpass.runtime.calibration import load_calibration
from hwpass.runtime.inputs import input_specs

GOLDEN = Path(__file__).parent / "passes" / "golden"

Draw = Callable[[Sketch], None]


@dataclass(frozen=True)
class Example:
    """A graph on which a pass has something to do: the pipeline ends in the pass.

    `data` is the shape of a sample of the only input, for passes that look at data; `tokens` bounds whole numbers.
    `loose` leaves the values of weights out of the text: they depend on more than the graph and the data.
    `whole` tells that a second time is the whole pipeline: the pass goes on from what another found out.
    """

    draw: Draw
    pipeline: str
    data: tuple[int, ...] | None = None
    tokens: int = 0
    needs: str = ""
    loose: bool = False
    whole: bool = False

    @property
    def installed(self) -> bool:
        """Whether the package that the pass needs is there."""
        return not self.needs or find_spec(self.needs) is not None

    def model(self) -> onnx.ModelProto:
        """The graph before the pipeline."""
        s = Sketch(seed=5)
        self.draw(s)
        return s.model()

    def context(self, proto: onnx.ModelProto) -> Context:
        """A target, the original, a plan that keeps half of each group, and data where the pass wants some."""
        coupling = couple(Model.load(proto))
        halves = [np.arange(group.width // 2) for group in coupling.groups]
        context = Context(target=load_target("server-cpu"), original=proto, plan=Plan.of(coupling, halves, ""))
        if self.data is not None:
            rng = np.random.default_rng(11)
            rows: Any = rng.standard_normal((64, *self.data)).astype(np.float32)
            if self.tokens:
                rows = rng.integers(0, self.tokens, (64, *self.data))
            context.calibration = load_calibration({proto.graph.input[0].name: rows}, input_specs(proto))
        return context

    def run(self) -> tuple[Model, Model, bool]:
        """The models before and after the last pass, and whether it changed anything."""
        proto = self.model()
        recording = Recording()
        PassManager.parse(self.pipeline, instruments=[recording]).run(Model.load(proto), self.context(proto))
        last = recording.ran[-1]
        return last.before, last.after, last.changed

    def again(self, model: Model, context: Context) -> tuple[Model, bool]:
        """The model after a second time, and whether the last pass changed it."""
        steps = PassManager.parse(self.pipeline).steps
        manager = PassManager(steps if self.whole else steps[-1:])
        return manager.run(model, context, further=not self.whole), manager.records[-1].changed

    def text(self) -> str:
        """The graph before the last pass, and what it changed."""
        before, after, changed = self.run()
        found = graph_diff(before, after)
        lines = [
            f"{self.pipeline}",
            "",
            "before:",
            *(f"  {line}" for line in listed(before)),
            "",
            f"after: {found.summary if changed else 'nothing changed'}",
            *(f"  {line}" for line in found.lines()),
            "",
            "in all:",
            *(f"  {line}" for line in listed(after)),
        ]
        return "".join(f"{self.stable(line)}\n".replace(" \n", "\n") for line in lines)

    def stable(self, line: str) -> str:
        """A line with norms to three digits, or without them: the last ones differ between processors."""
        return re.sub(r" norm ([0-9.e+-]+)", lambda found: "" if self.loose else f" norm {float(found[1]):.3g}", line)


def listed(model: Model) -> Iterator[str]:
    """The nodes of a graph, a line each, in order."""
    nothing = model.copy()
    nothing.graph.nodes.clear()
    yield from (node.line for node in graph_diff(nothing, model).added)


def _layers(s: Sketch) -> None:
    """Two convolutions of 32 and 8 channels."""
    x = s.op("Relu", s.conv(s.input(["N", 3, 12, 12], "image"), 32, 3, kernel=3, bias=True))
    s.output(s.conv(x, 8, 32, bias=True))


def _normalised(s: Sketch) -> None:
    s.output(s.op("Relu", s.batch_norm(s.conv(s.input(["N", 3, 4, 4], "image"), 4, 3), 4)))


def _scaled(s: Sketch) -> None:
    """A scale and a shift behind a convolution, and a scale before another that pads."""
    x = s.conv(s.input(["N", 3, 4, 4], "image"), 4, 3)
    x = s.op("Relu", s.op("Add", s.op("Mul", x, s.const([2.0])), s.weight(4, 1, 1, fan=1)))
    s.output(s.conv(s.op("Add", s.op("Mul", x, s.const([0.5])), s.const([1.0])), 4, 4, kernel=3))


def _hard_swish(s: Sketch) -> None:
    x = s.op("Relu", s.input(["N", 3, 4, 4], "image"))
    cut = s.op("Clip", s.op("Add", x, s.const([3.0])), s.const(0.0), s.const(6.0))
    s.output(s.conv(s.op("Div", s.op("Mul", x, cut), s.const([6.0])), 4, 3))


def _computed(s: Sketch) -> None:
    weight = s.op("Mul", s.weight(4, 3, 1, 1), s.const(2.0))
    s.output(s.op("Identity", s.op("Relu", s.op("Conv", s.input(["N", 3, 4, 4], "image"), weight))))


def _wasteful(s: Sketch) -> None:
    x = s.input(["N", 3, 4], "x")
    turned = s.op("Transpose", s.op("Transpose", x, perm=[0, 2, 1]), perm=[0, 2, 1])
    s.output(s.op("Add", s.op("Relu", s.op("Identity", turned)), s.op("Relu", x)))


def _alike(s: Sketch) -> None:
    """Four channels of which one is dead and two are the same."""
    weight = s.rng.standard_normal((4, 3, 1, 1)).astype(np.float32)
    bias = np.asarray([0.5, 0.5, -1.0, 0.25], np.float32)
    weight[1], weight[2] = weight[0], 0
    x = s.op("Relu", s.op("Conv", s.input(["N", 3, 4, 4], "image"), s.const(weight), s.const(bias)))
    s.output(s.op("Conv", x, s.weight(2, 4, 1, 1)))


def _signal(s: Sketch) -> None:
    x = s.op("Relu", s.conv_1d(s.input(["N", 3, 10], "signal"), 8, 3))
    s.output(s.conv_1d(s.op("Relu", s.conv_1d(x, 8, 8)), 4, 8))


def _stream(s: Sketch) -> None:
    """A residual stream that layer normalisations alone read."""
    x = s.linear(s.input(["N", 5, 4], "x"), 4, 8)
    for _ in range(2):
        h = s.op("LayerNormalization", x, s.positive(8), s.weight(8, fan=4), epsilon=1e-3)
        x = s.op("Add", x, s.linear(s.op("Relu", s.linear(h, 8, 8)), 8, 8))
    s.output(s.linear(s.op("LayerNormalization", x, s.positive(8), s.weight(8, fan=4), epsilon=1e-3), 8, 3))


def _heads(s: Sketch) -> None:
    """Attention of two heads of four dimensions."""
    x = s.input(["N", 5, 8], "x")
    q, k, v = (
        s.op("Transpose", s.op("Reshape", s.linear(x, 8, 8), s.const([0, 5, 2, 4])), perm=perm)
        for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    )
    scores = s.op("Softmax", s.op("Mul", s.op("MatMul", q, k), s.const(0.5)), axis=-1)
    y = s.op("Transpose", s.op("MatMul", scores, v), perm=[0, 2, 1, 3])
    s.output(s.linear(s.op("Reshape", y, s.const([0, 5, 8])), 8, 8))


def _silent(s: Sketch) -> None:
    """A convolution of four channels, of which two are never above zero."""
    weight = s.rng.standard_normal((4, 3, 1, 1)).astype(np.float32)
    bias = np.asarray([0.5, -60.0, 0.25, -80.0], np.float32)
    x = s.op("Relu", s.op("Conv", s.input(["N", 3, 4, 4], "image"), s.const(weight), s.const(bias)))
    s.output(s.op("Conv", x, s.weight(2, 4, 1, 1), s.weight(2, fan=1)))


def _low(s: Sketch) -> None:
    """A product of rank 4 at width 64."""
    weight = s.rng.standard_normal((64, 4)) @ s.rng.standard_normal((4, 64)) / 16
    x = s.op("MatMul", s.input(["N", 64], "x"), s.const(weight))
    s.output(s.linear(s.op("Relu", x), 64, 8))


def _tokens(s: Sketch) -> None:
    """Tokens through a table of 3,000 rows."""
    ids = s.input(["N", 12], "input_ids", TensorProto.INT64)
    x = s.op("Gather", s.const(s.rng.normal(size=(3000, 32)), stem="table"), ids)
    s.output(s.linear(s.op("Relu", s.linear(x, 32, 48)), 48, 4))


def _equal_rows(s: Sketch) -> None:
    """A table of 2,000 rows, of which 50 differ."""
    ids = s.input(["N", 3], "ids", TensorProto.INT64)
    table = s.rng.standard_normal((50, 16))[np.arange(2000) % 50]
    s.output(s.linear(s.op("Gather", s.const(table, stem="table"), ids), 16, 2))


#: Budgets that are met by half the channels of `_layers`; absolute ones, which a second time finds met.
HALF = "prune-channels{macs=80640,score=l2}"
IMAGE = (3, 12, 12)

EXAMPLES: dict[str, Example] = {
    "apply-plan": Example(_layers, "apply-plan"),
    "compensate": Example(_layers, f"{HALF},compensate", IMAGE, whole=True),
    "conv1d-to-2d": Example(_signal, "conv1d-to-2d{always=true}"),
    "distill": Example(_layers, f"{HALF},distill{{seconds=1}}", IMAGE, needs="torch", loose=True),
    "eliminate": Example(_wasteful, "eliminate"),
    "factorize": Example(_low, "factorize{size=12KiB,error=0.01}", (64,)),
    "fold": Example(_computed, "fold"),
    "fold-redundant": Example(_alike, "fold-redundant"),
    "fuse-affine": Example(_scaled, "fuse-affine"),
    "fuse-bn": Example(_normalised, "fuse-bn"),
    "fuse-hard-sigmoid": Example(_hard_swish, "fuse-hard-sigmoid{always=true}"),
    "lower-norms": Example(_stream, "rotate-streams,lower-norms"),
    "prune-activations": Example(_silent, "prune-activations", (3, 4, 4)),
    "prune-channels": Example(_layers, HALF),
    "prune-vocabulary": Example(_tokens, "prune-channels{channels=0.5x,score=l2},prune-vocabulary", (12,), tokens=900),
    "prune-weights": Example(_layers, "prune-weights{pattern=2:4}"),
    "quantize": Example(_layers, "quantize", IMAGE),
    "recalibrate-bn": Example(_normalised, "recalibrate-bn", (3, 4, 4)),
    "rotate-heads": Example(_heads, "rotate-heads"),
    "rotate-streams": Example(_stream, "rotate-streams"),
    "share-rows": Example(_equal_rows, "share-rows"),
    "to-fp16": Example(_layers, "to-fp16", IMAGE),
    "verify": Example(_layers, "verify"),
}


def write(names: list[str]) -> None:
    """Write the texts of some passes, or of all."""
    unknown = sorted(set(names) - set(EXAMPLES))
    if unknown:
        raise SystemExit(f"no example of {', '.join(unknown)}; there are {', '.join(EXAMPLES)}")
    GOLDEN.mkdir(exist_ok=True)
    for name in names or list(passes()):
        example = EXAMPLES[name]
        if example.installed:
            (GOLDEN / f"{name}.txt").write_text(example.text(), encoding="utf-8")
        else:
            print(f"{name}: left as it is, as {example.needs} is not installed", file=sys.stderr)


if __name__ == "__main__":
    write(sys.argv[1:])
