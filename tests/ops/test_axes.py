"""Axes as products of factors: regrouping, common refinements, and the equalities that come of them."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwpass.coupling.components import solve
from hwpass.ops.axes import FROZEN, Axis, Factor, Mismatch, Relations, axis_size, opaque, with_zero


def sizes(axes: list[Axis]) -> list[list[int]]:
    return [[factor.size for factor in axis] for axis in axes]


def test_an_axis_of_one_index_has_no_factors() -> None:
    assert opaque(1) == ()
    assert axis_size(opaque(1)) == 1
    assert axis_size(opaque(6)) == 6


def test_fresh_ids_never_repeat_and_never_are_the_frozen_one() -> None:
    r = Relations()
    a, b = r.fresh(3), r.fresh(2)
    assert a.ids is not None
    assert b.ids is not None
    assert [*a.ids, *b.ids] == [1, 2, 3, 4, 5]
    assert FROZEN not in a.ids


def test_with_zero_leaves_opaque_factors() -> None:
    r = Relations()
    axis = (Factor(2), r.fresh(3))
    flagged = with_zero(axis, True)
    assert [f.zero for f in flagged] == [False, True]
    assert flagged[1].ids is axis[1].ids


def test_regroup_merges_without_new_ids() -> None:
    r = Relations()
    a, b = r.fresh(4), r.fresh(6)
    (axis,) = r.regroup([a, b], [24])
    assert axis == (a, b)
    assert not r.splits


def test_regroup_splits_and_the_parts_are_remembered() -> None:
    """[4, 6] as [2, 12]: 4 = 2 x 2, and the second axis is (2, 6)."""
    r = Relations()
    a, b = r.fresh(4), r.fresh(6)
    first, second = r.regroup([a, b], [2, 12])
    assert sizes([first, second]) == [[2], [2, 6]]
    assert len(r.splits) == 1
    assert r.splits[0].parent is a.ids
    again = r.regroup([a, b], [2, 12])
    assert again[0][0].ids is first[0].ids
    assert len(r.splits) == 1


def test_regroup_keeps_opaque_factors_symbolic() -> None:
    """[S, B * 12, 64] from [S, B, 768]: 768 = 12 x 64."""
    r = Relations()
    axes = r.regroup([Factor(7), Factor(101), r.fresh(768)], [7, 101 * 12, 64])
    assert sizes(axes) == [[7], [101, 12], [64]]


@pytest.mark.parametrize(("before", "after"), [([6, 4], [8, 3]), ([5, 6], [3, 10]), ([4], [8]), ([4], [2])])
def test_boundaries_without_a_common_refinement(before: list[int], after: list[int]) -> None:
    r = Relations()
    with pytest.raises(Mismatch):
        r.regroup([r.fresh(n) for n in before], after)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_regrouping_keeps_the_extents(factors: list[int], random: object) -> None:
    """Any cut between factors fits; extents come out as asked for."""
    r = Relations()
    asked = [prod(factors[:1]), prod(factors[1:])]
    axes = r.regroup([r.fresh(n) for n in factors], asked)
    assert [axis_size(axis) for axis in axes] == asked


def test_divided_ids_stand_for_products() -> None:
    """flat of (outer 2, inner 3) with inner opaque repeats each outer id three times."""
    r = Relations()
    outer = r.fresh(2)
    found = r.flat((outer, Factor(3)))
    assert found is not None
    assert found[0].tolist() == [1, 1, 1, 2, 2, 2]
    behind = r.flat((Factor(3), outer))
    assert behind is not None
    assert behind[0].tolist() == [1, 2, 1, 2, 1, 2]
    assert r.flat((Factor(3), Factor(2))) is None


def test_flat_of_two_live_factors_is_a_new_product() -> None:
    r = Relations()
    found = r.flat((r.fresh(2, zero=True), r.fresh(3, zero=True)))
    assert found is not None
    assert len(found[0]) == 6
    assert found[1]
    assert len(r.splits) == 1


def test_unify_relates_index_by_index() -> None:
    r = Relations()
    a, b = r.fresh(3), r.fresh(3)
    r.unify((a,), (b,), "joined")
    component = solve(r.count, r.left, r.right)
    assert a.ids is not None
    assert b.ids is not None
    assert (component[a.ids] == component[b.ids]).all()
    assert len(set(component[a.ids])) == 3


def test_unify_refines_both_sides() -> None:
    """12 against (3, 4): the first is divided into 3 x 4 and both parts are equated."""
    r = Relations()
    whole, outer, inner = r.fresh(12), r.fresh(3), r.fresh(4)
    left, right = r.unify((whole,), (outer, inner), "joined")
    assert sizes([left, right]) == [[3, 4], [3, 4]]
    component = solve(r.count, r.left, r.right)
    for one, other in zip(left, right, strict=True):
        assert one.ids is not None
        assert other.ids is not None
        assert (component[one.ids] == component[other.ids]).all()


def test_unify_of_incompatible_products_freezes_both() -> None:
    r = Relations()
    one, other = (r.fresh(2), r.fresh(3)), (r.fresh(3), r.fresh(2))
    r.unify(one, other, "joined")
    component = solve(r.count, r.left, r.right)
    assert all((component[f.ids] == FROZEN).all() for f in (*one, *other) if f.ids is not None)
    assert all("differently" in reason for _, reason in r.origin)


def test_equating_with_an_opaque_factor_freezes() -> None:
    r = Relations()
    live = r.fresh(4)
    r.equate(Factor(4), live, "joined")
    assert live.ids is not None
    assert (solve(r.count, r.left, r.right)[live.ids] == FROZEN).all()


def test_a_single_index_is_kept() -> None:
    r = Relations()
    f = r.fresh(3)
    assert f.ids is not None
    assert r.factor(f.ids[1:2], True) == ()
    component = solve(r.count, r.left, r.right)
    assert [c == FROZEN for c in component[f.ids]] == [False, True, False]


def test_equalities_remember_their_origin() -> None:
    r = Relations()
    r.node = 7
    r.unify((r.fresh(2),), (r.fresh(2),), "because")
    assert r.origin == [(7, "because")]


def test_the_frozen_component_is_number_zero() -> None:
    left, right = [np.asarray([3, 4])], [np.asarray([2, 0])]
    component = solve(5, left, right)
    assert component[FROZEN] == component[4] == 0
    assert component[3] == component[2] != 0
    assert component[1] not in (component[0], component[2])
    assert solve(3, [], []).tolist() == [0, 1, 2]
