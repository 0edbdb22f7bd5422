"""Heads of attention in their principal axes: the same outputs, and dimensions of heads that go like channels."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import build, programs
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import ROUNDING, TOLERANCE, _sensitivity, difference, feeds_of, run
from sketch import Sketch

import hwpass
from hwpass.context import Context
from hwpass.coupling.attention_heads import heads
from hwpass.coupling.groups import Group, couple
from hwpass.manager import PassManager
from hwpass.model.model import Model
from hwpass.surgery.head_rotation import principal_basis

WIDTH, HEADS, DEPTH, TOKENS = 12, 4, 6, 5
INNER = HEADS * DEPTH


def turned(proto: onnx.ModelProto) -> tuple[Model, bool]:
    """The model behind rotate-heads and whether it fired; the outputs must stay."""
    feeds = feeds_of(proto, 0)
    wanted = run(proto, feeds)
    manager = PassManager.parse("rotate-heads")
    model = manager.run(Model.load(proto), Context())
    for feed, one, other in zip(feeds, wanted, run(model.proto(), feeds), strict=True):
        for place, (a, b) in enumerate(zip(one, other, strict=True)):
            error = difference(a, b)
            assert error <= TOLERANCE or error <= ROUNDING * _sensitivity(proto, feed, place)
    return model, manager.records[0].changed


class Attention(Sketch):
    """Multi-head attention over TOKENS tokens of WIDTH channels, as exporters write it."""

    def linear(self, x: str, inputs: int, outputs: int, bias: bool = True) -> str:
        """MatMul, and Add."""
        y = self.op("MatMul", x, self.weight(inputs, outputs, fan=inputs))
        return self.op("Add", self.weight(outputs, fan=1), y) if bias else y

    def by_heads(self, x: str, count: int = HEADS, perm: tuple[int, ...] = (0, 2, 1, 3)) -> str:
        """[N, T, heads * d] -> [N, heads, T, d], or permuted otherwise."""
        return self.op("Transpose", self.op("Reshape", x, self.const([0, -1, count, DEPTH])), perm=list(perm))

    def joined(self, x: str) -> str:
        """[N, heads, T, d] -> [N, T, heads * d]."""
        return self.op("Reshape", self.op("Transpose", x, perm=[0, 2, 1, 3]), self.const([0, -1, INNER]))

    def number(self, x: str, value: float) -> str:
        """A scale: a constant, or the root of an extent that is read as the model runs."""
        if value:
            return self.const(value)
        extent = self.op("Slice", self.op("Shape", x), self.const([-1]), self.const([1 << 40]))
        return self.op("Div", self.const(1.0), self.op("Sqrt", self.op("Cast", extent, to=1)))

    def attend(self, q: str, k: str, v: str, value: float = 0.5) -> str:
        """q [N, heads, T, d], k [N, heads, d, T], v [N, heads, T, d] -> [N, T, heads * d]."""
        q = self.op("Mul", q, self.number(q, value))
        return self.joined(self.op("MatMul", self.op("Softmax", self.op("MatMul", q, k), axis=-1), v))

    def split(self, x: str, parts: int = 3, bias: bool = True) -> list[str]:
        """Queries, keys and values from products of their own."""
        return [self.linear(x, WIDTH, INNER, bias) for _ in range(parts)]


def plain(s: Attention, r: random.Random, x: str) -> str:
    """Products for each; a scale by constant or by extent."""
    q, k, v = s.split(x, bias=r.random() < 0.7)
    scale = r.choice([0.5, 0.0])
    return s.attend(s.by_heads(q), s.by_heads(k, perm=(0, 2, 3, 1)), s.by_heads(v), scale)


def packed(s: Attention, r: random.Random, x: str) -> str:
    """One product for all, cut as [N, T, 3, heads, d] or by Split."""
    y = s.linear(x, WIDTH, 3 * INNER, r.random() < 0.7)
    if r.random() < 0.5:
        y = s.op("Transpose", s.op("Reshape", y, s.const([0, -1, 3, HEADS, DEPTH])), perm=[2, 0, 3, 1, 4])
        q, k, v = (s.op("Gather", y, s.const(i), axis=0) for i in range(3))
    else:
        parts = [s.const([INNER] * 3)] if s.opset < 18 else []
        more: dict[str, Any] = {} if parts else {"num_outputs": 3}
        q, k, v = (s.by_heads(part) for part in s.ops("Split", y, *parts, count=3, axis=2, **more))
    return s.attend(q, s.op("Transpose", k, perm=[0, 1, 3, 2]), v)


def by_einsum(s: Attention, r: random.Random, x: str) -> str:
    """Products written with labels."""
    q, k, v = (s.op("Reshape", part, s.const([0, -1, HEADS, DEPTH])) for part in s.split(x))
    scores = s.op("Softmax", s.op("Einsum", q, k, equation="bihd,bjhd->bhij"), axis=-1)
    y = s.op("Einsum", scores, v, equation="bhij,bjhd->bihd")
    return s.op("Reshape", y, s.const([0, -1, INNER]))


def grouped(s: Attention, r: random.Random, x: str) -> str:
    """Two heads of queries to a head of keys and values."""

    def shared(y: str) -> str:
        y = s.op("Unsqueeze", s.by_heads(y, HEADS // 2), s.const([2]))
        return s.op("Reshape", s.op("Expand", y, s.const([1, 1, 2, 1, 1])), s.const([0, HEADS, -1, DEPTH]))

    k, v = (shared(s.linear(x, WIDTH, INNER // 2)) for _ in range(2))
    return s.attend(s.by_heads(s.linear(x, WIDTH, INNER)), s.op("Transpose", k, perm=[0, 1, 3, 2]), v)


def sequence_first(s: Attention, r: random.Random, x: str) -> str:
    """[T, N, C], batch and heads as one axis."""
    x = s.op("Transpose", x, perm=[1, 0, 2])

    def flat(y: str, perm: list[int]) -> str:
        return s.op("Transpose", s.op("Reshape", y, s.const([TOKENS, -1, DEPTH])), perm=perm)

    q, k, v = s.split(x)
    q, k, v = flat(q, [1, 0, 2]), flat(k, [1, 2, 0]), flat(v, [1, 0, 2])
    y = s.op("MatMul", s.op("Softmax", s.op("MatMul", q, k), axis=-1), v)
    y = s.op("Reshape", s.op("Transpose", y, perm=[1, 0, 2]), s.const([TOKENS, -1, INNER]))
    return s.op("Transpose", y, perm=[1, 0, 2])


FORMS: dict[str, Callable[[Attention, random.Random, str], str]] = {
    f.__name__: f for f in (plain, packed, by_einsum, grouped, sequence_first)
}


def varied(seed: int, form: str = "") -> onnx.ModelProto:
    """A random network of one or two layers of attention with a stream beside them."""
    r = random.Random(seed)
    s = Attention(opset=r.choice([13, 17, 18, 20]), seed=seed)
    x = s.linear(s.input(["N", TOKENS, 3]), 3, WIDTH)
    for _ in range(r.randint(1, 2)):
        y = FORMS[form or r.choice(sorted(FORMS))](s, r, s.op("Tanh", x))
        x = s.op("Add", x, s.linear(y, INNER, WIDTH, r.random() < 0.7))
    s.output(s.linear(s.op("Tanh", x), WIDTH, 3))
    return s.model()


def inner(model: Model) -> list[Group]:
    """The groups of dimensions of a head."""
    return [group for group in couple(model).groups if group.width == DEPTH]


@pytest.mark.parametrize("form", FORMS)
def test_heads_are_turned_in_every_form(form: str) -> None:
    """Queries with keys, and values with what reads them: two groups of DEPTH for each layer."""
    proto = varied(3, form)
    model, changed = turned(proto)
    assert changed
    layers = sum(n.op_type == "Softmax" for n in proto.graph.node)
    assert len(inner(model)) == 2 * layers
    if form != "grouped":  # two heads of keys are too few to choose among
        assert not inner(Model.load(proto))


@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_any_attention_is_turned_and_thinned_exactly(seed: int) -> None:
    """The verdict of `run` compares the original with the prepared model, and the twin with the pruned one."""
    proto = varied(seed)
    assert turned(proto)[1]
    result = hwpass.run(proto, "server-cpu", channels=0.5, score="l2", align=1)
    assert result.report.verdicts.exactness is not None
    assert result.report.verdicts.exactness.passed


@settings(max_examples=40)
@given(programs())
def test_any_random_graph_keeps_its_outputs(program: tuple[Any, ...]) -> None:
    turned(build(program))


def test_the_random_networks_vary() -> None:
    """The property above is not empty."""
    seen: Counter[str] = Counter()
    for seed in range(80):
        seen.update({node.op_type for node in varied(seed).graph.node})
    assert min(seen[op] for op in ("Split", "Gather", "Einsum", "Expand", "Shape")) >= 3


def test_a_packed_product_is_taken_apart() -> None:
    """Scores and values get widths of their own, and nothing is cut out of one tensor any more."""
    for seed in range(6):
        model, _ = turned(varied(seed, "packed"))
        assert not {"Gather", "Split"} & {node.op for node in model.nodes}


def unfit(write: Callable[[Attention, str], str]) -> list[str]:
    """Why heads are not turned."""
    s = Attention()
    x = s.op("Tanh", s.linear(s.input(["N", TOKENS, 3]), 3, WIDTH))
    s.output(s.linear(write(s, x), INNER, WIDTH))
    proto = s.model()
    turned(proto)
    return [reason for _, reason in heads(couple(Model.load(proto)))[1]]


def test_a_rotary_embedding_keeps_heads_whole() -> None:
    """And those of values too, which are the same heads."""

    def write(s: Attention, x: str) -> str:
        q, k, v = s.split(x)
        angle = s.const(np.linspace(0.1, 1, DEPTH))
        return s.attend(s.op("Mul", s.by_heads(q), angle), s.by_heads(k, perm=(0, 2, 3, 1)), s.by_heads(v))

    assert unfit(write) == ["Mul stands before it"]
    s = Attention()
    s.output(s.linear(write(s, s.op("Tanh", s.input(["N", TOKENS, WIDTH]))), INNER, WIDTH))
    assert [group.width for group in couple(turned(s.model())[0]).groups] == [HEADS]


def test_a_norm_of_queries_keeps_heads_whole() -> None:
    def write(s: Attention, x: str) -> str:
        q, k, v = s.split(x)
        normed = s.op("LayerNormalization", s.by_heads(q), s.positive(DEPTH), axis=-1)
        return s.attend(normed, s.by_heads(k, perm=(0, 2, 3, 1)), s.by_heads(v))

    assert unfit(write) == ["LayerNormalization stands before it"]


def test_another_reader_of_keys_keeps_heads_whole() -> None:
    def write(s: Attention, x: str) -> str:
        q, k, v = s.split(x)
        s.output(s.op("Relu", k))
        return s.attend(s.by_heads(q), s.by_heads(k, perm=(0, 2, 3, 1)), s.by_heads(v))

    assert unfit(write) == ["Relu reads its heads too"]


def test_the_same_columns_for_queries_and_keys_keep_heads_whole() -> None:
    """x W W^T x^T would need T = T^-T."""

    def write(s: Attention, x: str) -> str:
        q, v = s.split(x, 2)
        return s.attend(s.by_heads(q), s.by_heads(q, perm=(0, 2, 3, 1)), s.by_heads(v))

    assert unfit(write) == ["its heads share dimensions"]


def test_a_gate_behind_the_values_keeps_them() -> None:
    def write(s: Attention, x: str) -> str:
        q, k, v = s.split(x)
        y = s.attend(s.by_heads(q), s.by_heads(k, perm=(0, 2, 3, 1)), s.by_heads(v))
        return s.op("Mul", y, s.op("Sigmoid", s.linear(x, WIDTH, INNER)))

    assert unfit(write) == ["Mul stands behind it"]


@pytest.mark.parametrize("tokens", [TOKENS, INNER])
def test_weights_on_the_left_keep_heads_whole(tokens: int) -> None:
    """W x over channels first, [N, C, T]: the columns are rows there."""
    s = Attention()
    x = s.op("Tanh", s.input(["N", WIDTH, tokens]))
    q, k, v = (
        s.op("Reshape", s.op("MatMul", s.weight(INNER, WIDTH, fan=WIDTH), x), s.const([0, HEADS, DEPTH, tokens]))
        for _ in range(3)
    )
    scores = s.op("Softmax", s.op("MatMul", s.op("Transpose", q, perm=[0, 1, 3, 2]), k), axis=-1)
    y = s.op("MatMul", v, s.op("Transpose", scores, perm=[0, 1, 3, 2]))
    s.output(s.op("MatMul", s.weight(WIDTH, INNER, fan=INNER), s.op("Reshape", y, s.const([0, INNER, tokens]))))
    proto = s.model()
    assert not turned(proto)[1]
    exactness = hwpass.run(proto, "server-cpu", channels=0.5, score="l2", align=1).report.verdicts.exactness
    assert exactness is not None
    assert exactness.passed


def test_a_scale_read_from_an_extent_stays_when_that_shrinks() -> None:
    """The root of the dimensions of a head was learned with: it is a number of the trained model."""
    s = Attention(opset=17)
    x = s.op("Tanh", s.linear(s.input(["N", TOKENS, 3]), 3, WIDTH))
    q, k, v = s.split(x)
    y = s.attend(s.by_heads(q), s.by_heads(k, perm=(0, 2, 3, 1)), s.by_heads(v), 0.0)
    s.output(s.linear(y, INNER, WIDTH))
    model, _ = turned(s.model())
    assert "Sqrt" not in {node.op for node in model.nodes}


def test_a_scale_that_follows_the_sequence_is_no_number() -> None:
    """1 / sqrt(T) is left as it is, and heads with it."""

    def write(s: Attention, x: str) -> str:
        q, k, v = s.split(x)
        q = s.by_heads(q)
        extent = s.op("Slice", s.op("Shape", q), s.const([2]), s.const([3]))
        q = s.op("Mul", q, s.op("Sqrt", s.op("Cast", extent, to=1)))
        return s.attend(q, s.by_heads(k, perm=(0, 2, 3, 1)), s.by_heads(v))

    s = Attention()
    x = s.op("Tanh", s.linear(s.input(["N", None, 3]), 3, WIDTH))
    s.output(s.linear(write(s, x), INNER, WIDTH))
    model, _ = turned(s.model())
    assert "Sqrt" in {node.op for node in model.nodes}


def test_few_dimensions_that_carry_everything_are_found() -> None:
    """Heads whose products have rank two are left with those two, and the outputs stay."""
    rng = np.random.default_rng(0)
    s = Attention()
    x = s.op("Tanh", s.input(["N", TOKENS, WIDTH]))

    def low(rows: int, columns: int, by: int) -> str:
        """Along axis `by` every head's DEPTH entries are mixtures of two."""
        bases = [rng.standard_normal((rows, 2)) @ rng.standard_normal((2, columns)) for _ in range(HEADS)]
        return s.const(np.concatenate(bases, axis=by).astype(np.float32) / 4)

    q, k, v = (s.op("MatMul", x, low(WIDTH, DEPTH, 1)) for _ in range(3))
    y = s.attend(s.by_heads(q), s.by_heads(k, perm=(0, 2, 3, 1)), s.by_heads(v))
    s.output(s.op("MatMul", y, low(DEPTH, WIDTH, 0)))
    data = {"x1": rng.standard_normal((64, TOKENS, WIDTH)).astype(np.float32)}
    result = hwpass.run(s.model(), "server-cpu", channels=2 / DEPTH, calib=data, align=1, compensate="off")
    assert result.plan is not None
    assert {len(group.kept) for group in result.plan.groups if group.width == DEPTH} == {2}
    fidelity = result.report.verdicts.fidelity
    assert fidelity is not None
    (output,) = fidelity.outputs.values()
    assert output["rel_l2"] is not None
    assert output["rel_l2"] < 1e-4


def test_the_basis_has_equal_moments_on_both_sides() -> None:
    """T^T A T = T^-1 B T^-T = the singular values of A^1/2 B^1/2, and T T^-1 = 1."""
    rng = np.random.default_rng(1)
    one, other = (m @ m.T for m in rng.standard_normal((2, 5, 9)))
    forth, back = principal_basis(one, other)
    np.testing.assert_allclose(forth @ back, np.eye(5), atol=1e-9)
    sizes = np.sqrt(np.sort(np.linalg.eigvals(one @ other).real)[::-1])
    np.testing.assert_allclose(forth.T @ one @ forth, np.diag(sizes), atol=1e-3)
    np.testing.assert_allclose(back @ other @ back.T, np.diag(sizes), atol=1e-3)


def test_a_plan_is_applied_without_data() -> None:
    """The basis comes from weights alone: the same plan on the same file gives the same model."""
    proto = varied(5, "plain")
    data = {"x1": np.random.default_rng(0).standard_normal((64, TOKENS, 3)).astype(np.float32)}
    result = hwpass.run(proto, "server-cpu", channels=0.5, calib=data, align=1, compensate="off")
    assert result.plan is not None
    context = Context(plan=result.plan)
    again = PassManager.parse(f"{result.plan.prepare},apply-plan").run(Model.load(proto), context)
    feeds = feeds_of(proto, 1)
    for one, other in zip(run(result.model.proto(), feeds), run(again.proto(), feeds), strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
