"""One distribution of somebody else's adds a pass, a target and a rule, and one run uses all three."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from distributions import distribution, python
from onnx import helper, numpy_helper

from hwpass.plugins import PASSES, RULES, TARGETS

PACKAGE = '''
from __future__ import annotations
from dataclasses import dataclass, field, replace

from hwpass.manager import Pass, PassResult, register
from hwpass.ops.rule import register as rule
from hwpass.ops.rules.elementwise import ACTIVATION, Unary


@register
@dataclass(frozen=True)
class Signed(Pass):
    """A model -> the same with a line on who worked on it."""

    name = "sign"
    by: str = field(default="nobody", metadata={"help": "who"})

    def run(self, model, context):
        if model.doc_string == self.by:
            return PassResult(model, False)
        model.doc_string = self.by
        context.findings.note(self.name, {"by": self.by})
        return PassResult(model, True)


@rule
class Step(Unary):
    """1 where x is above a threshold, else 0."""

    domain, ops = "ai.onnx.ml", ("Binarizer",)
    traits = replace(ACTIVATION, sign="nonnegative")
'''

TARGET = """
extends = "server-cpu"
name = "tile-16"
description = "a board with tiles of 16 channels"
align = 16

[sources]
align = "its data sheet"
"""


def steps() -> onnx.ModelProto:
    """Two products with a threshold between them, for which hwpass has no rule."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (16, 64), "b1": (64,), "w2": (64, 4), "b2": (4,)}
    weights = [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in shapes.items()]
    x, y = (helper.make_tensor_value_info(name, 1, ["N", size]) for name, size in (("x", 16), ("y", 4)))
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["a"], "first"),
        helper.make_node("Binarizer", ["a"], ["b"], "step", domain="ai.onnx.ml", threshold=0.5),
        helper.make_node("Gemm", ["b", "w2", "b2"], ["y"], "last"),
    ]
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(helper.make_graph(nodes, "steps", [x], [y], weights), opset_imports=domains, ir_version=9)


RUN = (
    "run", "steps.onnx", "--target", "tile-16", "--pipeline", "prune-channels{macs=0.5x,score=l2},sign{by=us},verify",
    "-o", "small.onnx", "--json", "small.json",
)  # fmt: skip


def installed(folder: Path, *groups: str) -> Path:
    """A folder with the model and the package, of which some entry points are declared."""
    onnx.save(steps(), folder / "steps.onnx")
    data = folder / "fake_boards"
    data.mkdir()
    (data / "__init__.py").write_text("")
    (data / "tile-16.toml").write_text(TARGET)
    entries = {PASSES: "sign = {module}:Signed", RULES: "step = {module}:Step", TARGETS: "boards = fake_boards"}
    distribution(folder, "theirs", PACKAGE, {group: entries[group] for group in groups})
    return folder


def test_one_run_uses_a_pass_a_target_and_a_rule_of_theirs(tmp_path: Path) -> None:
    folder = installed(tmp_path, PASSES, RULES, TARGETS)
    done = python(folder, "-m", "hwpass", *RUN)
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "small.json").read_text())
    assert report["target"] == "tile-16"
    assert report["notes"]["sign"] == {"by": "us"}
    assert report["verdicts"]["exactness"]["passed"] is True
    small = onnx.load(folder / "small.onnx")
    assert small.doc_string == "us"
    # Half of 64 channels, on the steps of the target.
    assert sorted(list(t.dims) for t in small.graph.initializer if len(t.dims) == 2) == [[16, 32], [32, 4]]
    listed = python(folder, "-m", "hwpass", "passes").stdout
    assert "sign\n  A model -> the same with a line on who worked on it." in listed
    assert "tile-16" in python(folder, "-m", "hwpass", "targets").stdout


@pytest.mark.parametrize(
    ("groups", "status", "words"),
    [
        ((RULES, TARGETS), 2, "there is no pass 'sign'"),
        ((PASSES, RULES), 2, "unknown target 'tile-16'"),
        ((PASSES, TARGETS), 4, "no rule describes Binarizer"),
    ],
)
def test_without_one_of_the_three_the_run_says_what_is_missing(
    groups: tuple[str, ...], status: int, words: str, tmp_path: Path
) -> None:
    # A module that is loaded for its pass registers all that it holds; a rule of its own is then another module.
    folder = installed(tmp_path, *groups)
    if RULES not in groups:
        module = folder / "fake_theirs.py"
        module.write_text(module.read_text().replace("@rule\n", ""))
    done = python(folder, "-m", "hwpass", *RUN)
    assert done.returncode == status, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "small.onnx").exists()
