"""What passes declare of masks and factors is checked by counting: every lie is seen, and named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from sketch import Sketch

from hwpass.context import Context
from hwpass.coupling.groups import couple
from hwpass.errors import VerdictError
from hwpass.manager import Pass, PassManager, PassResult
from hwpass.model.model import Model
from hwpass.surgery.declared import FactoredLayer, Factors, MaskedWeight, Masks
from hwpass.surgery.low_rank import factor, factorization, forms_of, product, weights_of
from hwpass.surgery.weight_views import WeightView
from hwpass.verdicts.declared_weights import broken_factors, broken_masks, filled


def masked() -> tuple[Model, Model, Masks]:
    """A model, the same with 2:4 weights, and the declaration."""
    s = Sketch(seed=4)
    x = s.op("Relu", s.op("Conv", s.input(["N", 8, 4, 4], "x"), s.weight(8, 8, 3, 3), s.weight(8, fan=4)))
    s.output(s.op("Gemm", s.op("Flatten", s.op("GlobalAveragePool", x)), s.weight(4, 8), s.weight(4, fan=4), transB=1))
    before = Model.load(s.model())
    context = Context()
    after = PassManager.parse("prune-weights{pattern=2:4}").run(before, context)
    declared = context.findings.stages[-1].declared
    assert isinstance(declared, Masks)
    return before, after, declared


def conv(model: Model) -> gs.Node:
    return next(n for n in model.graph.nodes if n.op == "Conv")


def test_the_truth_holds() -> None:
    before, after, declared = masked()
    assert broken_masks(before, after, declared) is None
    assert filled(after, declared) is None


def _fill(after: Model, masks: Masks) -> Masks:
    node = conv(after)
    values = node.inputs[1].values.copy()
    values[tuple(np.argwhere(values == 0)[7])] = 1e-30
    node.inputs[1] = gs.Constant("filled", values)
    return masks


def _move(after: Model, masks: Masks) -> Masks:
    node = conv(after)
    node.inputs[1] = gs.Constant("moved", np.where(node.inputs[1].values != 0, node.inputs[1].values * 2, 0))
    return masks


def _other(after: Model, masks: Masks) -> Masks:
    node = conv(after)
    node.inputs[2] = gs.Constant("shifted", node.inputs[2].values + np.float32(0.1))
    return masks


def _wider(after: Model, masks: Masks) -> Masks:
    """A mask that lets three of four through, and a weight that uses it."""
    node = conv(after)
    weight = next(w for w in masks.weights if w.place[0] == node.outputs[0].name)
    kept = weight.kept
    kept[0, :4, 0, 0] = [True, True, True, False]
    values = node.inputs[1].values.copy()
    values[0, :4, 0, 0] = [1, 1, 1, 0]
    node.inputs[1] = gs.Constant("wide", values)
    mine = MaskedWeight.of(weight.place, kept, weight.pattern)
    others = tuple(w for w in masks.weights if w is not weight)
    return Masks((mine, *others), frozenset({weight.place}))


def _along_outputs(after: Model, masks: Masks) -> Masks:
    """Two of four along the outputs, not along the inputs."""
    node = conv(after)
    weight = next(w for w in masks.weights if w.place[0] == node.outputs[0].name)
    kept = np.zeros(weight.shape, bool)
    kept[::2] = True
    node.inputs[1] = gs.Constant("wrong_axis", np.where(kept, np.float32(1), np.float32(0)))
    others = tuple(w for w in masks.weights if w is not weight)
    return Masks((MaskedWeight.of(weight.place, kept, "2:4"), *others), frozenset({weight.place}))


def _attribute(after: Model, masks: Masks) -> Masks:
    conv(after).attrs["strides"] = [2, 2]
    return masks


def _operator(after: Model, masks: Masks) -> Masks:
    next(n for n in after.graph.nodes if n.op == "Relu").op = "Abs"
    return masks


def _gone(after: Model, masks: Masks) -> Masks:
    lost = replace(masks.weights[0], place=("nowhere", 1))
    return Masks((*masks.weights, lost), masks.refitted)


def _bias(after: Model, masks: Masks) -> Masks:
    node = next(n for n in after.graph.nodes if n.op == "Gemm")
    node.inputs.append(gs.Constant("more", np.zeros(4, np.float32)))
    return masks


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        (_fill, "1 values at masked places are not zero"),
        (_move, "its remaining values are others, and are not said to be refitted"),
        (_other, "its input 2 has other values, which is not declared"),
        (_wider, "3 of 4 consecutive inputs differ from zero, not 2 at most"),
        (_along_outputs, "4 of 4 consecutive inputs differ from zero"),
        (_attribute, "its attributes are others"),
        (_operator, "was Relu"),
        (_gone, "there is no weight at 'nowhere'"),
        (_bias, "it has 4 inputs, and had 3"),
    ],
)
def test_a_lie_about_masks_is_named(lie: Callable[[Model, Masks], Masks], words: str) -> None:
    before, after, declared = masked()
    after = after.copy()
    problem = broken_masks(before, after, lie(after, declared))
    assert problem is not None
    assert words in problem


def test_blocks_are_counted_whole() -> None:
    s = Sketch(seed=1)
    s.output(s.op("Relu", s.op("MatMul", s.input(["N", 8]), s.weight(8, 8))))
    before, context = Model.load(s.model()), Context()
    after = PassManager.parse("prune-weights{pattern=4x1}").run(before, context)
    declared = context.findings.stages[-1].declared
    assert isinstance(declared, Masks)
    assert broken_masks(before, after, declared) is None
    turned = replace(declared.weights[0], pattern="1x4")
    problem = broken_masks(before, after, Masks((turned,)))
    assert problem is not None
    assert "blocks of 1x4 are kept in part" in problem


@dataclass(frozen=True)
class Filler(Pass):
    """Puts a value where a mask wants none, and calls it a refit."""

    name = "filler-for-a-test"
    effect = "refit"

    def run(self, model: Model, context: Context) -> PassResult:
        _fill(model, Masks(()))
        return PassResult(model, True)


@dataclass(frozen=True)
class Liar(Pass):
    """Doubles all weights and declares masks of its own on top."""

    name = "liar-for-a-test"
    effect = "mask"

    def run(self, model: Model, context: Context) -> PassResult:
        node = conv(model)
        node.inputs[1] = gs.Constant("doubled", node.inputs[1].values * 2)
        return PassResult(model, True, declared=Masks(()))


def test_the_proof_fails_where_a_later_pass_fills_masks() -> None:
    before, _, _ = masked()
    context = Context(original=before.proto())
    steps = [*PassManager.parse("prune-weights{pattern=2:4}").steps, Filler(), *PassManager.parse("verify").steps]
    with pytest.raises(VerdictError, match="1 values at masked places are not zero"):
        PassManager(steps).run(before, context)


def test_the_proof_fails_where_more_changed_than_is_declared() -> None:
    before, _, _ = masked()
    context = Context(original=before.proto())
    steps = [Liar(), *PassManager.parse("verify").steps]
    with pytest.raises(VerdictError, match="has other values, which is not declared"):
        PassManager(steps).run(before, context)


def factored() -> tuple[Model, Model, Factors]:
    """A model, the same with a pair of convolutions and one of products, and the declaration."""
    s = Sketch(seed=4)
    x = s.op("Relu", s.op("Conv", s.input(["N", 8, 6, 6], "x"), s.weight(8, 8, 3, 3), s.weight(8, fan=4), pads=[1] * 4))
    s.output(s.op("Gemm", s.op("Flatten", s.op("GlobalAveragePool", x)), s.weight(8, 8), s.weight(8, fan=4), transB=1))
    before = Model.load(s.model())
    after, layers = before.copy(), []
    for view in (WeightView.of(n) for n in couple(before).nodes):
        if isinstance(view, WeightView):
            form = forms_of(view)[0]
            node = next(n for n in after.graph.nodes if n.outputs[0].name == view.place[0])
            weights = weights_of(factorization(view, form), 3)
            first = factor(node, view, form, weights)
            after.graph.nodes.insert(next(i for i, n in enumerate(after.graph.nodes) if n is node), first)
            layers.append(FactoredLayer(first.outputs[0].name, view.place[0], product(view, form, *weights)))
    assert len(layers) == 2
    return before, after, Factors(tuple(layers))


def test_the_truth_about_factors_holds() -> None:
    assert broken_factors(*factored()) is None


def _scaled(after: Model, factors: Factors) -> Factors:
    node = next(n for n in after.graph.nodes if n.outputs[0].name == factors.layers[0].first)
    node.inputs[1] = gs.Constant("scaled", node.inputs[1].values * np.float32(1.001))
    return factors


def _wrong_product(after: Model, factors: Factors) -> Factors:
    first, *rest = factors.layers
    return Factors((replace(first, product=first.product[::-1]), *rest))


def _biased(after: Model, factors: Factors) -> Factors:
    node = next(n for n in after.graph.nodes if n.outputs[0].name == factors.layers[0].first)
    node.inputs.append(gs.Constant("bias_between", np.ones(3, np.float32)))
    return factors


def _other_bias(after: Model, factors: Factors) -> Factors:
    node = next(n for n in after.graph.nodes if n.outputs[0].name == factors.layers[1].output)
    node.inputs[2] = gs.Constant("another", np.ones(8, np.float32))
    return factors


def _one_more(after: Model, factors: Factors) -> Factors:
    after.graph.nodes.append(gs.Node("Neg", "n", {}, [after.graph.inputs[0]], [gs.Variable("stranger")]))
    return factors


def _not_told(after: Model, factors: Factors) -> Factors:
    return Factors(factors.layers[:1])


def _elsewhere(after: Model, factors: Factors) -> Factors:
    relu = next(n for n in after.graph.nodes if n.op == "Relu")
    next(n for n in after.graph.nodes if n.outputs[0].name == factors.layers[0].first).inputs[0] = relu.outputs[0]
    return factors


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        (_scaled, "multiply to what differs from the declared weight"),
        (_wrong_product, "multiply to what differs from the declared weight"),
        (_biased, "its first factor has a bias"),
        (_other_bias, "its bias is another, which is not declared"),
        (_one_more, "a node makes 'stranger'"),
        (_not_told, "a node makes"),
        (_elsewhere, "two products of its input do not stand in its place"),
    ],
)
def test_a_lie_about_factors_is_named(lie: Callable[[Model, Factors], Factors], words: str) -> None:
    before, after, declared = factored()
    problem = broken_factors(before, after, lie(after, declared))
    assert problem is not None
    assert words in problem


def test_attributes_of_a_pair_are_seen_by_running_it() -> None:
    """The factors multiply to what they should; their window does not."""

    @dataclass(frozen=True)
    class Shifted(Pass):
        """Factors, with the padding of one moved."""

        name = "shifted-for-a-test"
        effect = "factor"

        def run(self, model: Model, context: Context) -> PassResult:
            _, after, declared = factored()
            next(n for n in after.graph.nodes if n.outputs[0].name.endswith("_rank")).attrs["pads"] = [2, 1, 0, 1]
            return PassResult(after, True, declared=declared)

    before, _, _ = factored()
    with pytest.raises(VerdictError, match="exactness failed"):
        PassManager([Shifted(), *PassManager.parse("verify").steps]).run(before, Context(original=before.proto()))
