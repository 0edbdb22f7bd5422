"""Whatever graph, whatever channels go: the pruned model equals its dense twin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graph_actions import attention, conv, gemm, group_norm
from graph_moves import concat, cut, gather, residual, split
from graph_shapes import pad, pixels, shuffle, spread
from graphs import ACTIONS, build, programs
from hypothesis import given
from oracle import Outcome, check, feeds_of, run
from programs import sample
from sketch import Sketch

#: The dynamic batch is 1 and 3, so that an extent that was baked in shows.
SIZES = (1, 3)


@given(programs())
def test_every_random_graph_is_rewritten_exactly(program: tuple[Any, ...]) -> None:
    proto = build(program)
    check(proto, program[2], sizes=SIZES)


def test_the_oracle_is_awake() -> None:
    """At least 60 % of the graphs lose something; they are deep, of many operators, and run as they were made."""
    modified, nodes, operators = 0, [], set()
    programs = sample(60)
    for program in programs:
        proto = build(program)
        run(proto, feeds_of(proto, 0, SIZES))
        outcome: Outcome = check(proto, program[2], sizes=SIZES)
        modified += outcome.surgery.modified
        nodes.append(len(proto.graph.node))
        operators |= {node.op_type for node in proto.graph.node}
    assert modified >= 0.6 * len(programs)
    assert np.median(nodes) >= 10
    assert len(operators) >= 60
    assert len(ACTIONS) >= 40
    assert {a.__name__ for a in (attention, conv, gemm, group_norm, concat, cut, gather, residual, split, pad, pixels,
                                 shuffle, spread)} <= {a.__name__ for a in ACTIONS}  # fmt: skip


# Counterexamples that were found, shrunk by hand: each is a rule that was wrong once.


def accepted(sketch: Sketch, groups: int, seeds: int = 6) -> None:
    """The model is rewritten exactly, and at least one group of channels was there to be removed."""
    for seed in range(seeds):
        outcome = check(sketch.model(), seed, share=0.5, sizes=SIZES)
        assert len(outcome.coupling.groups) >= groups
        assert outcome.surgery.modified == (outcome.removed > 0)


def test_a_single_index_stays_a_scalar() -> None:
    """Gather by a scalar drops the axis; the rewritten index must not turn into a list of one."""
    s = Sketch()
    h = s.linear(s.input(["N", 5, 6]), 6, 8)
    s.output(s.linear(s.op("Gather", h, s.const(np.asarray(3)), axis=2), 5, 3))
    accepted(s, 1)


def test_padding_with_ones_makes_no_channel_zero() -> None:
    """The padded row is one in every channel, so a product with it sees the removed ones."""
    s = Sketch()
    h = s.linear(s.input(["N", 4, 8]), 8, 12)
    padded = s.op("Pad", h, s.const([0, 0, 0, 0, 1, 0]), s.const(1.0))
    y = s.op("Einsum", padded, s.op("Clip", padded, s.const(0.25), s.const(2.0)), equation="btu,bsu->bts")
    s.output(s.linear(y, 5, 3), s.linear(h, 12, 2))
    accepted(s, 0)


def test_a_table_of_indices_is_not_zero_where_it_lost_entries() -> None:
    """The twin's table has index 0 there, and picks a row that is not zero: a norm over the axis sees it."""
    s = Sketch()
    x = s.input([2, 5, 6])
    rows = s.op("Gather", x, s.const([4, 1, 2, 0]), axis=1)
    s.output(s.axes_op("ReduceSumSquare", rows, [1], since=18, keepdims=0), s.conv_1d(rows, 4, 4))
    accepted(s, 0)


def test_stepped_slices_of_two_axes() -> None:
    """What is left is uneven; two axes cannot both become a Gather in place of the one Slice."""
    s = Sketch(18)
    h = s.conv_1d(s.input(["N", 4, 8]), 12, 4)
    cut_ = s.op("Slice", h, s.const([1, -1]), s.const([2**63 - 1, -(2**63) + 1]), s.const([-1, 1]), s.const([1, -2]))
    s.output(s.conv_1d(cut_, 3, 6), s.conv_1d(h, 2, 12))
    accepted(s, 0)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_backward_slices_of_either_integer_type(dtype: type) -> None:
    """The end that means "through the first" must fit the type of the bounds."""
    s = Sketch(13)
    h = s.linear(s.input(["N", 8]), 8, 12)
    low = np.iinfo(dtype).min + 1
    bounds = [s.const(v, dtype) for v in ([-1], [low], [1], [-1])]
    s.output(s.linear(s.op("Slice", h, *bounds), 12, 3))
    accepted(s, 1)


@pytest.mark.parametrize("op", ["BatchNormalization", "Conv", "ConvTranspose", "InstanceNormalization"])
def test_a_bias_shifts_zeros_along_the_batch(op: str) -> None:
    """Channels moved to the batch axis are zero no more behind a bias, and a sum over them sees that."""
    s = Sketch(13)
    h = s.conv(s.input(["N", 3, 4, 4]), 6, 3, kernel=3)
    moved = s.op("Transpose", s.op("Slice", h, s.const([0]), s.const([1]), s.const([0])), perm=[1, 0, 2, 3])
    if op == "BatchNormalization":
        y = s.batch_norm(moved, 1)
    elif op == "InstanceNormalization":
        y = s.op(op, moved, s.weight(1), s.weight(1))
    else:
        y = s.op(op, moved, s.weight(1, 1, 1, 1), s.const([0.7]))
    s.output(s.op("ReduceSum", y, s.const([0]), keepdims=0), s.conv(h, 2, 6))
    accepted(s, 0)


def test_acosh_is_not_defined_at_zero() -> None:
    s = Sketch()
    h = s.op("Add", s.op("Add", s.op("Abs", s.linear(s.input(["N", 5, 4]), 4, 6)), s.positive(6)), s.const([1.0] * 6))
    s.output(s.linear(s.op("Acosh", h), 6, 3))
    accepted(s, 0)


@pytest.mark.parametrize("op", ["Reciprocal", "Div"])
def test_what_is_zero_in_part_is_no_divisor(op: str) -> None:
    """One joined part is zero where it is removed and the other is not: together they count as not zero."""
    s = Sketch()
    x = s.input(["N", 5, 4])
    h = s.op("Concat", s.linear(x, 4, 5), s.op("Sigmoid", s.linear(x, 4, 6)), axis=2)
    y = s.op("Reciprocal", h) if op == "Reciprocal" else s.op("Div", s.linear(x, 4, 11), h)
    s.output(s.linear(y, 11, 3))
    accepted(s, 0)


def test_a_difference_of_what_is_not_zero_may_be() -> None:
    """exp(0) - 1 is zero again."""
    s = Sketch()
    h = s.op("Sub", s.op("Exp", s.linear(s.input(["N", 5, 4]), 4, 6)), s.const(1.0))
    s.output(s.linear(s.op("Reciprocal", h), 6, 3))
    accepted(s, 0)


def test_a_slice_by_the_extent_of_what_shrinks() -> None:
    s = Sketch()
    h = s.linear(s.input([2, 12]), 12, 6)
    width = s.op("Gather", s.op("Shape", h), s.const([1]), axis=0)
    s.output(s.op("Slice", s.input([2, 12]), s.const([0]), width, s.const([1])), s.linear(h, 6, 2))
    accepted(s, 0)


def test_no_rows_are_added() -> None:
    """An extent of zero that is computed from what shrinks: it is neither one, nor a divisor."""
    s = Sketch()
    h = s.linear(s.input([2, 5, 4]), 4, 6)
    nothing = s.op("Slice", h, s.const([0]), s.const([-5]), s.const([1]))
    ones = s.op("Expand", s.const([[[1.0]]]), s.op("Shape", nothing))
    s.output(s.linear(s.op("Concat", h, ones, axis=1), 6, 3))
    accepted(s, 1)


def test_a_computed_target_whose_zero_copies_no_more() -> None:
    """[2, 4, 8] -> [2 * 4, 0, 2] copies the 4; when that shrinks, the place behind it still has 4 entries."""
    s = Sketch()
    h = s.conv_1d(s.input([2, 3, 8]), 4, 3)
    rows = s.op("Mul", s.op("Gather", s.op("Shape", h), s.const([0]), axis=0), s.const([4]))
    y = s.op("Reshape", h, s.op("Concat", rows, s.const([0]), s.const([2]), axis=0))
    s.output(s.axes_op("ReduceSum", s.linear(y, 2, 3), [0], since=13))
    accepted(s, 1)


@pytest.mark.parametrize("form", ["exp + 1", "zero + 1", "norm", "relu + 1", "clip"])
def test_what_is_certainly_not_zero_divides(form: str) -> None:
    s = Sketch()
    h = s.linear(s.input(["N", 5, 4]), 4, 6)
    shape = s.op("Shape", h)
    divisor = {
        "exp + 1": lambda: s.op("Add", s.op("Exp", h), s.const(1.0)),
        "zero + 1": lambda: s.op("Add", s.op("Tanh", s.op("Mul", h, s.const(0.1))), s.const(3.0)),
        "norm": lambda: s.op("Expand", s.axes_op("ReduceL2", h, [2], since=18, keepdims=1), shape),
        "relu + 1": lambda: s.op("Sqrt", s.op("Add", s.op("Relu", h), s.const(1.0))),
        "clip": lambda: s.op("Clip", h, s.const(0.5), s.const(9.0)),
    }[form]()
    s.output(s.linear(s.op("Div", h, divisor), 6, 3))
    accepted(s, 1)
    s.output(s.linear(s.op("Log", s.op("Abs", divisor)), 6, 3))
    accepted(s, 1)


@pytest.mark.parametrize("form", ["in part", "integers", "entry by entry"])
def test_what_may_be_zero_does_not(form: str) -> None:
    """Joined with what may be zero; cut off to whole numbers; raised by a constant that loses its entries too."""
    s = Sketch()
    x = s.input(["N", 5, 4])
    h = s.linear(x, 4, 6)
    raised = s.op("Add", s.op("Abs", h), s.const([2.0] * 6))
    divisor = {
        "in part": lambda: s.op("Concat", s.op("Slice", h, s.const([0]), s.const([3]), s.const([2])), s.op(
            "Sigmoid", s.linear(x, 4, 3)), axis=2),
        "integers": lambda: s.op("Cast", s.op("Cast", s.op("Softplus", raised), to=7), to=1),
        "entry by entry": lambda: raised,
    }[form]()  # fmt: skip
    s.output(s.linear(s.op("Mul", h, s.op("Reciprocal", divisor)), 6, 3))
    accepted(s, 0)
