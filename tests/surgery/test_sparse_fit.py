"""Patterns of zeros, layouts of weights, and the fit under a pattern, each against a plain way to the same."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sketch import Sketch

from hwpass.coupling.groups import couple
from hwpass.data.row_table import RowTable
from hwpass.errors import UsageError
from hwpass.model.model import Model
from hwpass.surgery.sparse_fit import Wish, sparse_fit
from hwpass.surgery.sparsity_patterns import Pattern
from hwpass.surgery.weight_views import WeightView


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["unstructured", "1:2", "2:4", "1:4", "2x1", "1x4", "2x2"]), st.integers(0, 2**31), st.floats(0, 1)
)
def test_a_mask_keeps_what_scores_most(text: str, seed: int, share: float) -> None:
    pattern, rng = Pattern.parse(text), np.random.default_rng(seed)
    shape = (int(rng.integers(1, 3)), 4 * int(rng.integers(1, 3)), int(rng.integers(1, 3)), 2 * int(rng.integers(1, 3)))
    scores = rng.integers(0, 5, shape).astype(float)  # with equals
    kept = round(share * pattern.units(scores.size))
    mask = pattern.mask(scores, kept)
    assert mask.shape == shape
    assert str(pattern) == text
    if pattern.m:
        parts = mask.reshape(shape[0], -1, pattern.m, *shape[2:])
        assert (parts.sum(axis=2) == pattern.n).all()
        best = np.sort(scores.reshape(parts.shape), axis=2)[:, :, -pattern.n :].sum()
    else:
        assert mask.sum() == kept * pattern.rows * pattern.columns
        blocks = [
            scores[g, i : i + pattern.columns, t, o : o + pattern.rows].sum()
            for g, i, t, o in itertools.product(
                range(shape[0]), range(0, shape[1], pattern.columns), range(shape[2]), range(0, shape[3], pattern.rows)
            )
        ]
        best = sum(sorted(blocks)[len(blocks) - kept :])
    assert scores[mask].sum() == best


@pytest.mark.parametrize("text", ["4:2", "0:4", "2:2", "0x4", "block", "2:4:8", ""])
def test_a_pattern_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="write unstructured, N:M"):
        Pattern.parse(text)


def products() -> dict[str, Sketch]:
    found = {}
    for op in ("Conv", "grouped", "ConvTranspose", "MatMul", "Gemm", "turned"):
        s = Sketch(seed=2)
        if op in ("Conv", "grouped"):
            groups = 2 if op == "grouped" else 1
            y = s.op("Conv", s.input(["N", 8, 5, 5]), s.weight(6, 8 // groups, 3, 2), group=groups)
        elif op == "ConvTranspose":
            y = s.op(op, s.input(["N", 8, 5, 5]), s.weight(8, 6, 2, 2))
        elif op == "MatMul":
            y = s.op(op, s.input(["N", 8]), s.weight(8, 6))
        else:
            weight = s.weight(6, 8) if op == "turned" else s.weight(8, 6)
            y = s.op("Gemm", s.input(["N", 8]), weight, s.weight(6, fan=1), transB=int(op == "turned"))
        s.output(s.op("Relu", y))
        found[op] = s
    return found


@pytest.mark.parametrize("op", products())
def test_a_view_holds_the_reduction_axis_second(op: str) -> None:
    """Zeroing input 3 of the view is zeroing what multiplies input 3 of the data."""
    coupling = couple(Model.load(products()[op].model()))
    node = next(n for n in coupling.nodes if n.op in ("Conv", "ConvTranspose", "MatMul", "Gemm"))
    view = WeightView.of(node)
    assert isinstance(view, WeightView)
    seen = view.seen(view.values).copy()
    assert seen.shape == view.sizes
    np.testing.assert_array_equal(view.laid(seen), view.values)
    seen[:, 3] = 0
    values = view.laid(seen)
    axis = {"Conv": 1, "grouped": 1, "ConvTranspose": 0, "MatMul": 0, "Gemm": 0, "turned": 1}[op]
    assert not np.take(values, 3, axis=axis).any()
    assert np.count_nonzero(values) == np.count_nonzero(np.delete(view.values, 3, axis=axis))


def rows(seed: int, inputs: int, outputs: int, count: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs that depend on each other, as a network's do, weights, and what they give."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, inputs)) @ rng.standard_normal((inputs, inputs)) + rng.standard_normal(inputs)
    weights = rng.standard_normal((inputs, outputs)).astype(np.float32)
    return x.astype(np.float32), weights, (x @ weights).astype(np.float32)


def test_on_a_given_mask_the_fit_is_that_of_least_squares() -> None:
    x, weights, wanted = rows(0, 12, 3)
    wish = Wish(Pattern.parse("unstructured"), 18, 1, by_magnitude=True)
    found = sparse_fit(wish, RowTable([x]), RowTable([wanted]), weights, np.zeros(3), 80, has_bias=True)
    assert found.mask is not None
    assert found.taken
    assert not found.weights[~found.mask.reshape(12, 3)].any()
    for output in range(3):
        own = found.mask[0, :, 0, output]
        table = np.column_stack([x[:320, own], np.ones(320)])
        best = np.linalg.lstsq(table, wanted[:320, output], rcond=None)[0]
        gap = np.square(x[320:, own] @ best[:-1] + best[-1] - wanted[320:, output]).sum()
        mine = np.square(x[320:] @ found.weights[:, output] + found.bias[output] - wanted[320:, output]).sum()
        assert mine <= 1.1 * gap


@pytest.mark.parametrize(("text", "kept"), [("unstructured", 4), ("2:4", 0), ("1x2", 3)])
def test_the_choice_is_near_the_best_of_all(text: str, kept: int) -> None:
    """Of a product with one output all masks can be tried."""
    close = 0
    for seed in range(6):
        x, weights, wanted = rows(seed, 8, 1)
        pattern = Pattern.parse(text)
        found = sparse_fit(Wish(pattern, kept, 1), RowTable([x]), RowTable([wanted]), weights, np.zeros(1), 80,
                           has_bias=False)  # fmt: skip
        assert found.mask is not None
        count = int(found.mask.sum())
        errors = []
        for choice in itertools.combinations(range(8), count):
            scores = np.zeros((1, 8, 1, 1))
            scores[0, list(choice)] = 1
            if int(pattern.mask(scores, kept).ravel()[list(choice)].sum()) < count:
                continue  # the pattern has no such mask
            part = np.linalg.lstsq(x[:320][:, choice], wanted[:320, 0], rcond=None)[0]
            errors.append(np.square(x[320:][:, choice] @ part - wanted[320:, 0]).sum() / (wanted[320:].var() * 80))
        close += found.after <= 1.6 * min(errors) + 1e-6
        assert found.after <= found.before
    assert close >= 4


def test_large_systems_are_factored_and_others_turned(monkeypatch: pytest.MonkeyPatch) -> None:
    from hwpass.surgery import sparse_fit as module

    x, weights, wanted = rows(3, 16, 4)
    arguments = (Wish(Pattern.parse("2:4"), 0, 1), RowTable([x]), RowTable([wanted]), weights, np.zeros(4), 80)
    small = sparse_fit(*arguments, has_bias=True)
    monkeypatch.setattr(module, "LARGE", 4)
    large = sparse_fit(*arguments, has_bias=True)
    assert large.after < 0.7 * large.before
    assert large.after < 3 * small.after


def test_without_a_refit_values_stay() -> None:
    x, weights, wanted = rows(1, 8, 2)
    wish = Wish(Pattern.parse("2:4"), 0, 1, by_magnitude=False, refit=False)
    found = sparse_fit(wish, RowTable([x]), RowTable([wanted]), weights, np.zeros(2), 80, has_bias=True)
    assert found.mask is not None
    np.testing.assert_array_equal(found.weights, np.where(found.mask.reshape(8, 2), weights, 0))


@pytest.mark.parametrize("large", [False, True])
def test_inputs_that_hardly_vary_about_their_means_do_no_harm(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of their Gram matrix is rounding, and need not be positive definite."""
    from hwpass.surgery import sparse_fit as module

    if large:
        monkeypatch.setattr(module, "LARGE", 4)
    rng = np.random.default_rng(0)
    x = (1000 + 1e-3 * rng.standard_normal((400, 16))).astype(np.float32)
    x[:, 0] = 0
    weights = rng.standard_normal((16, 4)).astype(np.float32)
    wanted = (x @ weights).astype(np.float32)
    found = sparse_fit(Wish(Pattern.parse("2:4"), 0, 1), RowTable([x]), RowTable([wanted]), weights, np.zeros(4), 80,
                       has_bias=True)  # fmt: skip
    assert np.isfinite(found.weights).all()
    assert found.after <= found.before
    gap = np.abs(x @ found.weights + found.bias - wanted).max()
    assert gap < 1e-3 * np.abs(wanted).max()
