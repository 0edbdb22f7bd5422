"""An operator of somebody else is one class: every room knows it by its rule, and an entry point brings it in."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from onnx import helper
from sketch import Sketch

from hwpass import plugins
from hwpass.context import Context
from hwpass.cost.kernels import Kernels
from hwpass.coupling.branches import branches
from hwpass.coupling.constant_channels import constants
from hwpass.coupling.groups import Coupling, couple
from hwpass.coupling.redundant_channels import redundancy, unread
from hwpass.model.model import Model
from hwpass.ops import Traits, rule, traits_of
from hwpass.ops.rule import rules
from hwpass.passes.fuse_bn import FuseBatchNorm
from hwpass.runtime.settings import Settings
from hwpass.surgery.compensation import Compensation
from hwpass.surgery.cut import prune
from hwpass.surgery.dense_twin import dense_twin
from hwpass.surgery.product_tail import follow

ROOT = Path(__file__).parents[2]

SQUAREPLUS = """
from hwpass.ops import Rule, Tensor, Traits
from hwpass.ops.axes import with_zero
from hwpass.ops.rule import register

@register
class Squareplus(Rule):
    '''(x + sqrt(x^2 + 4)) / 2, entry by entry.'''
    domain, ops, kind = "their", ("Squareplus",), "elementwise"
    traits = Traits(fuses="activation", sign="nonnegative", pointwise=True, hands_on=True, clips=(0.0, float("inf")))

    def couple(self, node, build):
        return [Tensor(tuple(with_zero(axis, False) for axis in node.axes(0)), node.tensor(0).dtype)]
"""

LINEAR = """
from dataclasses import replace
from hwpass.ops import Form, Rule, Tensor, Traits
from hwpass.ops.rules.elementwise import broadcast
from hwpass.ops.rules.matmul import multiply

class Linear(Rule):
    '''y = x W + b.'''
    domain, ops, kind = "their", ("Linear",), "matmul"
    traits = Traits(form=Form("matrix"))

    def couple(self, node, build):
        axes = multiply(node, build, node.axes(0), node.axes(1))
        if node.has(2):
            axes = broadcast(node, build, [0, 2], all, [axes, node.axes(2)])
            node.product = node.product and replace(node.product, bias=2)
        return [Tensor(tuple(axes), node.tensor(0).dtype)]
"""

#: Distribution: what the entry point names (after the module), and the module's text.
THEIRS = {"theirs-activation": ("", SQUAREPLUS), "theirs-product": (":Linear", LINEAR)}

RULE = "from hwpass.ops.rule import Rule, register\n@register\nclass R(Rule):\n    '''Theirs.'''\n    ops = ('{0}',)\n"
#: Distribution: the same, and what the warning has to say.
BROKEN = {
    "import-error": ("", "import no_such_module_of_anybodys", "no_such_module_of_anybodys"),
    "own-exception": ("", "class Own(BaseException): pass\nraise Own('mine')", "Own: mine"),
    "rule-of-ours": ("", RULE.format("Relu"), "two rules for Relu"),
    "half-way": ("", RULE.format("HalfWay") + "raise ValueError('after all')", "after all"),
    "registers-nothing": ("", "x = 1", "registers no rule"),
    "no-rule": (":thing", "thing = 3", "int is neither"),
    "no-subclass": (":Thing", "class Thing: pass", "Thing is neither"),
    "registers-anything": (
        "", "from hwpass.ops.rule import register\n@register\nclass T: ops = ('x',)", "T is no subclass"
    ),
    "no-operator": (":R", "from hwpass.ops import Rule\nclass R(Rule): '''Theirs.'''", "R names no operator"),
}  # fmt: skip


def install(folder: Path, made: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Distributions with an entry point each; the names of their modules."""
    modules = []
    for name, (thing, text, *_) in made.items():
        module = f"rules_of_{name.replace('-', '_')}"
        (folder / f"{module}.py").write_text(text, encoding="utf-8")
        info = folder / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[hwpass.rules]\n{name} = {module}{thing}\n", encoding="utf-8")
        modules.append(module)
    return modules


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a process that has not asked for the rules of others yet."""
    rules()
    monkeypatch.setattr(plugins, "_LOADED", {})
    before = dict(rule._RULES)
    yield
    rule._RULES.clear()
    rule._RULES.update(before)


@pytest.fixture
def theirs(unloaded: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    modules = install(tmp_path, THEIRS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for module in modules:
        sys.modules.pop(module, None)


def model(s: Sketch) -> Model:
    """A sketch with operators that no runtime has: it is not loaded, which would try it."""
    proto = s.model()
    proto.opset_import.append(helper.make_opsetid("their", 1))
    graph = gs.import_onnx(proto)
    graph.import_domains = [helper.make_opsetid(entry.domain, entry.version) for entry in proto.opset_import]
    return Model(graph, "")


def linear(s: Sketch, x: str, inputs: int, outputs: int) -> str:
    return s.op("Linear", x, s.weight(inputs, outputs, fan=inputs), s.weight(outputs, fan=4), domain="their")


def squareplus(s: Sketch, x: str) -> str:
    return s.op("Squareplus", x, domain="their")


def perceptron() -> Sketch:
    """8 -> 6 -> 5 with their activation between."""
    s = Sketch()
    s.output(linear(s, squareplus(s, linear(s, s.input([1, 8]), 8, 6)), 6, 5))
    return s


def widths(coupling: Coupling) -> list[tuple[int, int]]:
    return [(group.width, len(group.layers)) for group in coupling.groups]


@pytest.mark.usefixtures("theirs")
def test_channels_are_coupled_across_them() -> None:
    coupling = couple(model(perceptron()))
    assert widths(coupling) == [(6, 2)]
    assert not any(node.frozen for node in coupling.nodes)


def test_without_them_nothing_is_known() -> None:
    coupling = couple(model(perceptron()))
    assert coupling.groups == []
    assert {node.frozen for node in coupling.nodes} == {"no rule describes Linear", "no rule describes Squareplus"}
    assert all(traits_of(node.gs) == Traits() for node in coupling.nodes)


@pytest.mark.usefixtures("theirs")
@pytest.mark.parametrize(
    ("chain", "kernels"), [("activation", 1), ("elementwise", 1), ("normalization", 2), ("Relu", 2)]
)
def test_the_activation_joins_the_kernel_before_it(chain: str, kernels: int) -> None:
    s = Sketch()
    s.output(squareplus(s, s.conv(s.input([1, 3, 4, 4]), 6, 3)))
    found = Kernels(couple(model(s)), [["Conv", chain]])
    assert list(found.op) == (["Conv+Squareplus"] if kernels == 1 else ["Conv", "Squareplus"])


@pytest.mark.usefixtures("theirs")
def test_the_product_is_priced() -> None:
    """One row: 8 * 6 and 6 * 5 products; the activation has none."""
    found = Kernels(couple(model(perceptron())), [["Linear", "activation"]])
    assert list(found.kind) == ["matmul", "matmul"]
    assert found.work(found.dense[None, :]).macs[0].tolist() == [48, 30]
    assert found.work(np.asarray([[3.0]])).macs[0].tolist() == [24, 15]


@pytest.mark.usefixtures("theirs")
def test_what_it_gives_is_known_to_be_no_less_than_zero() -> None:
    coupling = couple(model(perceptron()))
    assert [(n.outputs[0].sign.nonnegative, n.outputs[0].sign.positive) for n in coupling.nodes] == [
        (False, False), (True, False), (False, False)
    ]  # fmt: skip


@pytest.mark.usefixtures("theirs")
def test_a_residual_branch_with_both_may_go() -> None:
    """x + squareplus(linear(linear(x))): without the inner channels their activation has a constant to work on."""
    s = Sketch()
    x = linear(s, s.input([2, 8]), 8, 5)
    inner = squareplus(s, linear(s, squareplus(s, linear(s, x, 5, 6)), 6, 5))
    s.output(linear(s, s.op("Add", x, inner), 5, 3))
    coupling = couple(model(s))
    number = next(i for i, group in enumerate(coupling.groups) if group.width == 6)
    branch = branches(coupling)[number]
    assert branch is not None
    assert [coupling.nodes[i].op for i in sorted(branch.folded)] == ["Squareplus"]
    keep = np.ones(int(coupling.component.max()) + 1, bool)
    keep[coupling.groups[number].components] = False
    surgery = prune(coupling, keep)
    assert [n.op for n in surgery.model.graph.nodes] == ["Linear", "Squareplus", "Add", "Linear"]
    left = surgery.model.graph.nodes[1].inputs[0]
    bias = coupling.nodes[3].gs.inputs[2].values
    assert np.array_equal(left.values, bias[None, :])
    twin = dense_twin(coupling, surgery).graph.nodes[3]
    assert not twin.inputs[1].values.any()
    assert np.array_equal(twin.inputs[2].values, bias)


class Values:
    """Activations where `Segments` would run the model."""

    def __init__(self, values: dict[str, np.ndarray]) -> None:
        self.values = values

    def live(self, name: str) -> bool:
        return name in self.values

    def value(self, name: str) -> list[np.ndarray]:
        return [self.values[name]]


class Rows:
    """Rows of a layer's outputs where `DenseRows` would run the original."""

    def __init__(self, outputs: np.ndarray) -> None:
        self.outputs = outputs
        self.shapes = [outputs.shape]
        self.where = [(np.arange(len(outputs)),)]

    def has(self, tensor: str) -> bool:
        return False

    def rows(self, number: int, tensor: str = "") -> np.ndarray:
        return self.outputs


@pytest.mark.usefixtures("theirs")
def test_compensation_refits_the_product_behind_the_activation() -> None:
    """Inputs that tell the removed channels: what they gave is had from those that stay, and from the bias."""
    coupling = couple(model(perceptron()))
    keep = np.ones(int(coupling.component.max()) + 1, bool)
    keep[coupling.groups[0].components[:2]] = False
    surgery = prune(coupling, keep)
    node, target = coupling.nodes[2], surgery.model.graph.nodes[2]
    hidden = np.random.default_rng(0).standard_normal((400, 6)).astype(np.float32)
    hidden[:, :2] = hidden[:, 2:4] + 3
    wanted = hidden @ node.gs.inputs[1].values + node.gs.inputs[2].values
    dense, pruned = Rows(wanted), Values({node.gs.inputs[0].name: hidden[:, 2:]})
    compensation = Compensation(coupling, surgery, Settings(), samples=400, rows=400)
    fitter = compensation._fitter(node, target)
    assert fitter is not None
    found = fitter(node, target, dense, pruned)
    assert found is not None
    assert found[1] < 1e-3 < found[0]
    again = hidden[:, 2:] @ target.inputs[1].values + target.inputs[2].values
    assert np.abs(again - wanted).max() < 0.05 * np.abs(wanted).max()


@pytest.mark.usefixtures("theirs")
def test_a_fit_looks_at_what_the_activation_cuts_off() -> None:
    tail = follow(couple(model(perceptron())).nodes[0].gs)
    assert (tail.low, tail.high) == (0.0, np.inf)


@pytest.mark.usefixtures("theirs")
def test_channels_without_a_contribution_are_found_across_them() -> None:
    """Channel 1 is its bias whatever the input; nobody reads channel 4."""
    made = model(perceptron())
    first, second = made.graph.nodes[0], made.graph.nodes[2]
    first.inputs[1].values[:, 1] = 0
    second.inputs[1].values[4] = 0
    coupling = couple(made)
    places = coupling.groups[0].components
    assert np.flatnonzero(unread(coupling)).tolist() == [places[4]]
    known = constants(coupling)[id(coupling.nodes[0].outputs[0])]
    assert np.flatnonzero(known.mask).tolist() == [1]
    assert known.values[1] == pytest.approx(float(first.inputs[2].values[1]))
    assert [reader.node.op for reader in redundancy(coupling).readers] == ["Linear", "Linear"]


@pytest.mark.usefixtures("theirs")
def test_a_batch_normalisation_behind_the_product_is_fused() -> None:
    s = Sketch()
    s.output(s.batch_norm(linear(s, s.input([1, 8]), 8, 6), 6))
    made = model(s)
    product, norm = made.graph.nodes
    weight = product.inputs[1].values
    scale, variance = norm.inputs[1].values, norm.inputs[4].values
    assert FuseBatchNorm().run(made, Context()).modified
    assert [n.op for n in made.graph.nodes] == ["Linear"]
    assert np.allclose(made.graph.nodes[0].inputs[1].values, weight * scale / np.sqrt(variance + 1e-5), rtol=1e-5)


@pytest.mark.usefixtures("unloaded")
def test_broken_rules_are_named_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(rule._RULES)
    modules = install(tmp_path, {**BROKEN, **THEIRS})
    monkeypatch.syspath_prepend(str(tmp_path))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        table = rules()
        rules()
    for module in modules:
        sys.modules.pop(module, None)
    lines = [str(w.message) for w in found if issubclass(w.category, plugins.PluginWarning)]
    assert len(lines) == len(BROKEN)
    for name, (_, _, says) in BROKEN.items():
        line = next(line for line in lines if line.startswith(f"distribution {name}: "))
        assert "in hwpass.rules left out: " in line
        assert says in line
    assert set(table) - set(before) == {("their", "Squareplus"), ("their", "Linear")}
    assert all(table[key] is ours for key, ours in before.items())


@pytest.mark.usefixtures("unloaded")
def test_warnings_that_are_errors_leave_the_table_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, {"import-error": BROKEN["import-error"], **THEIRS})
    monkeypatch.syspath_prepend(str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(plugins.PluginWarning, match="distribution import-error"):
            rules()
        assert ("their", "Linear") in rules()


def test_the_command_line_says_it_in_one_line(tmp_path: Path) -> None:
    install(tmp_path, {"half-way": BROKEN["half-way"], **THEIRS})
    done = subprocess.run(
        [sys.executable, "-m", "hwpass", "groups", str(ROOT / "fixtures" / "cnn.onnx")], capture_output=True, text=True,
        check=False, cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [line.partition(" left out")[0] for line in done.stderr.splitlines()] == [
        "hwpass: distribution half-way: entry point half-way = rules_of_half_way in hwpass.rules"
    ]
