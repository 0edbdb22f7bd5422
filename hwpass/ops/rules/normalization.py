"""Normalisations: per channel they are harmless; over channels they mix, and freeze them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from hwpass.ops.axes import Axis, Factor, Mismatch, axis_size, opaque, with_zero
from hwpass.ops.constants import padded
from hwpass.ops.functions import normalization as functions
from hwpass.ops.functions import windows
from hwpass.ops.functions.common import Function
from hwpass.ops.planar import POSITIONS, Planar, moved, windowed
from hwpass.ops.rule import Array, Form, Freeze, Known, Node, Relate, Rule, Shrink, Tensor, Traits, register
from hwpass.ops.rules.matmul import is_zero

#: RMS normalisation before the standard had one: a layer normalisation that takes its input to be centred.
MEANLESS = "SimplifiedLayerNormalization"

#: The standard operators that it becomes in a file whose operator set has none for it, and the first set that has one.
LOWERED = ("Pow", "ReduceMean", "Add", "Sqrt", "Div", "Mul")
RMS_NORM_SINCE = 23


def _kept_zero(node: Node) -> bool:
    """Whether scale and bias (inputs 1 and 2) are zero where a channel is removed, and so is the result."""
    return all(is_zero(node.axes(position)[0]) for position in (1, 2))


@register
class BatchNormalization(Rule):
    """y = scale (x - mean) / sqrt(var + epsilon) + bias, per channel; scale and bias of a removed one are zero."""

    ops = ("BatchNormalization",)
    kind = "normalization"
    traits = Traits(fuses="normalization", pointwise=True, hands_on=True, form=Form("channels", bias=False))
    functions: ClassVar[dict[str, Function]] = {"BatchNormalization": functions.batch_norm}
    fixed = (3, 4)

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x = node.axes(0)
        channels = x[1] if len(x) > 1 else ()
        zero = _kept_zero(node)
        if node.attr("training_mode", 0):
            raise Freeze("normalised by the statistics of the batch")
        for position in range(1, 5):
            channels, _ = build.unify(channels, node.axes(position)[0], "one normalisation per channel")
        node.scale = (1, 2)
        node.fill[4] = 1.0
        # Along the other axes zeros are shifted by the bias.
        others = [with_zero(axis, False) for axis in x]
        output = Tensor((others[0], with_zero(channels, zero), *others[2:]), node.tensor(0).dtype)
        # Before opset 14 a model in inference may name outputs for statistics, which nothing reads.
        statistics = [Tensor((with_zero(channels, False),), node.tensor(0).dtype) for _ in node.gs.outputs[1:]]
        return [output, *statistics]

    def folds(self, node: Node) -> bool:
        return True


@register
class InstanceNormalization(Rule):
    """The same with statistics of each sample's channel; scale and bias of a removed channel are zero."""

    ops = ("InstanceNormalization",)
    kind = "normalization"
    traits = Traits(fuses="normalization", hands_on=True)
    functions: ClassVar[dict[str, Function]] = {"InstanceNormalization": functions.instance_norm}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x = node.axes(0)
        build.freeze(x[2:], "normalised together")
        channels = x[1]
        zero = _kept_zero(node)
        for position in (1, 2):
            channels, _ = build.unify(channels, node.axes(position)[0], "one normalisation per channel")
        node.scale = (1, 2)
        return [Tensor((with_zero(x[0], False), with_zero(channels, zero), *x[2:]), node.tensor(0).dtype)]


@register
class GroupNormalization(Rule):
    """Statistics over each group: whole groups may go, positions inside one may not."""

    ops = ("GroupNormalization",)
    kind = "normalization"
    traits = Traits(fuses="normalization")
    functions: ClassVar[dict[str, Function]] = {"GroupNormalization": functions.group_norm}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x = node.axes(0)
        build.freeze(x[2:], "normalised together")
        groups = int(node.attr("num_groups"))
        try:
            group, inner = build.regroup(x[1], [groups, axis_size(x[1]) // groups])
        except Mismatch:
            raise Freeze("the groups cut across those of the input") from None
        build.freeze([inner], "normalised together with its group")
        channels = (*group, *inner)
        per_channel = axis_size(node.axes(1)[0]) != groups
        for position in (1, 2):
            # Until opset 21 scale and bias were per group.
            build.unify(channels if per_channel else group, node.axes(position)[0], "scale and bias")
        node.scale = (1, 2)
        node.memo["group"] = group
        channels = with_zero(channels, _kept_zero(node))
        return [Tensor((with_zero(x[0], False), channels, *x[2:]), node.tensor(0).dtype)]

    def shrink(self, node: Node, shrink: Shrink) -> None:
        node.gs.attrs["num_groups"] = shrink.size(node.memo["group"])


@register
class LayerNormalization(Rule):
    """Statistics over the last axes: these are frozen."""

    ops = ("LayerNormalization",)
    kind = "normalization"
    traits = Traits(fuses="normalization")
    functions: ClassVar[dict[str, Function]] = {"LayerNormalization": functions.layer_norm}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x = node.axes(0)
        start = int(node.attr("axis", -1)) % len(x)
        build.freeze(x[start:], f"{node.op} mixes all of its channels")
        for position in (1, 2):
            if node.has(position):
                build.freeze(node.axes(position), f"{node.op} mixes all of its channels")
        axes = (*(with_zero(a, False) for a in x[:start]), *x[start:])
        rest = [Tensor((*x[:start], *((),) * (len(x) - start)), node.tensor(0).dtype) for _ in node.gs.outputs[1:]]
        return [Tensor(axes, node.tensor(0).dtype), *rest]


def rms(node: Node, build: Relate, x: tuple[Axis, ...], start: int, scale: int) -> None:
    """Couple x g / sqrt(mean(x^2) + epsilon) over the axes from `start` on, g being input `scale`; see `keep_rms`."""
    g, normed = node.axes(scale), x[start:]
    if not float(node.attr("epsilon", 1e-5)):
        build.freeze([] if node.tensor(0).sign.solid else x[:start], f"{node.op} is not finite at zero")
    for place, axis in enumerate(reversed(normed)):
        if place < len(g) and g[len(g) - 1 - place]:
            build.unify(axis, g[len(g) - 1 - place], "one scale per channel")
    for axis in normed:
        if not is_zero(axis):
            build.freeze([axis], f"{node.op} mixes all of its channels")
    if any(tensor.name for tensor in node.gs.outputs[1:3]):
        build.freeze(normed, f"{node.op} hands out its statistics")
    node.memo["normed"] = normed


def keep_rms(node: Node, shrink: Shrink) -> None:
    """Scale epsilon by 1 / r and the output by r^(-1/2) where a share r of the entries stays.

    The mean m over all entries, zeros included, is r times the mean M over those that stay, and
    x g / sqrt(m + e) = r^(-1/2) x g / sqrt(M + e / r).
    """
    normed = node.memo["normed"]
    if any(shrink.touched(axis) for axis in normed):
        share = float(np.prod([shrink.size(axis) / axis_size(axis) for axis in normed]))
        node.gs.attrs["epsilon"] = float(node.attr("epsilon", 1e-5)) / share
        shrink.scale_output(node, share**-0.5)


@register
class RMSNormalization(Rule):
    """x g / sqrt(mean(x^2) + epsilon): zeros add nothing to the sum, and the count is made good by scaling."""

    ops = ("RMSNormalization", MEANLESS)
    kind = "normalization"
    functions: ClassVar[dict[str, Function]] = dict.fromkeys(ops, functions.rms_norm)

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x = node.axes(0)
        start = int(node.attr("axis", -1)) % len(x)
        rms(node, build, x, start, 1)
        axes = (*x[:start], *(with_zero(axis, True) for axis in x[start:]))
        dtype = node.tensor(0).dtype
        rows = tuple(with_zero(axis, False) for axis in x[:start])
        rest = Tensor((*rows, *((),) * (len(x) - start)), np.dtype(np.float32))
        return [Tensor(axes, dtype), rest][: len(node.gs.outputs)]

    def shrink(self, node: Node, shrink: Shrink) -> None:
        keep_rms(node, shrink)


@register
class Mixing(Rule):
    """Operators in which every index along an axis sees every other: softmax and its kind."""

    ops = ("Softmax", "LogSoftmax", "Hardmax", "LpNormalization", "LRN", "CumSum", "MeanVarianceNormalization")
    kind = "softmax"
    each: ClassVar[dict[str, Traits]] = dict.fromkeys(("Softmax", "LogSoftmax"), Traits(hands_on=True))
    functions: ClassVar[dict[str, Function]] = {
        **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), functions.softmax),
        "LpNormalization": functions.lp_norm,
        "LRN": functions.lrn,
        "CumSum": functions.cumulated,
        "MeanVarianceNormalization": functions.mean_variance_norm,
    }

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x = node.axes(0)
        rank = len(x)
        if node.op == "LRN":
            mixed = [1]
        elif node.op == "CumSum":
            axis = node.integers(1)
            assert axis is not None
            mixed = [axis[0] % rank]
        elif node.op == "MeanVarianceNormalization":
            mixed = [a % rank for a in node.attr("axes", [0, 2, 3])]
        elif build.opset < 13 and node.op != "LpNormalization":
            # Before opset 13 everything from the axis on was one vector.
            mixed = list(range(int(node.attr("axis", 1)) % rank, rank))
        else:
            mixed = [int(node.attr("axis", -1)) % rank]
        if node.op in ("LRN", "MeanVarianceNormalization", "LpNormalization"):
            node.kind = "normalization"
        build.freeze([x[place] for place in mixed], f"{node.op} mixes along this axis")
        if node.op == "MeanVarianceNormalization":
            # A removed channel has no deviation to be divided by: the constant that is left of it has one of rounding.
            build.freeze(x, f"{node.op} is not finite where nothing varies")
        keeps = node.op in ("LRN", "CumSum")
        axes = tuple(
            a if place in mixed else with_zero(a, keeps and all(f.zero for f in a)) for place, a in enumerate(x)
        )
        return [Tensor(axes, node.tensor(0).dtype)]


@register
class Reduce(Rule):
    """Reductions. A sum over zeros is the same sum, a mean over zeros the same up to the count: rescaled.

    An extremum would see the zeros, and any reduction sees what is not zero: frozen.
    """

    ops = (
        "ReduceMean",
        "ReduceSum",
        "ReduceMax",
        "ReduceMin",
        "ReduceProd",
        "ReduceL1",
        "ReduceL2",
        "ReduceSumSquare",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ArgMax",
        "ArgMin",
    )
    kind = "reduce"
    each: ClassVar[dict[str, Traits]] = {
        **dict.fromkeys(("ReduceMean", "ReduceSum"), Traits(sign="same", hands_on=True, linear=(0,))),
        **dict.fromkeys(("ReduceMax", "ReduceMin"), Traits(sign="same", hands_on=True, carries=(0,))),
        **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceSumSquare"), Traits(sign="nonnegative")),
    }
    functions: ClassVar[dict[str, Function]] = {
        **functions.REDUCE,
        **dict.fromkeys(("ArgMax", "ArgMin"), functions.arg_extremum),
    }

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x = node.axes(0)
        rank = len(x)
        if node.op.startswith("Arg"):
            given: list[int] | None = [int(node.attr("axis", 0))]
        else:
            given = node.integers(1, "axes")
        if not given:
            if node.attr("noop_with_empty_axes", 0):
                return [Tensor(x, node.tensor(0).dtype)]
            given = list(range(rank))
        reduced = {a % rank for a in given}
        additive = node.op in ("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceMean")
        for place in reduced:
            if not (additive and all(f.zero for f in x[place] if f.ids is not None)):
                build.freeze([x[place]], f"{node.op} over this axis counts every index")
        if node.op == "ReduceMean":
            node.memo["mean"] = [x[place] for place in sorted(reduced)]
        if node.op == "ReduceLogSum":
            build.freeze([] if node.tensor(0).sign.solid else x, f"{node.op} is not finite at zero")
        keeps = additive or node.op in ("ReduceMax", "ReduceMin", "ReduceProd")
        axes = []
        for place, axis in enumerate(x):
            if place not in reduced:
                axes.append(axis if keeps else with_zero(axis, False))
            elif node.attr("keepdims", 1):
                axes.append(())
        return [Tensor(tuple(axes), np.dtype(np.int64) if node.op.startswith("Arg") else node.tensor(0).dtype)]

    def constants(self, node: Node, given: Mapping[int, Known]) -> Known | None:
        known, axes = given.get(0), node.integers(1, "axes")
        if node.op != "ReduceMean" or known is None or not axes:
            return None
        reduced = {a % node.tensor(0).rank for a in axes}
        if known.place in reduced:
            return None
        lost = 0 if node.attr("keepdims", 1) else sum(a < known.place for a in reduced)
        return Known(known.place - lost, known.mask, known.values)

    def planar(self, node: gs.Node, ranks: Sequence[int | None]) -> Planar | None:
        given = node.inputs[1] if len(node.inputs) > 1 else None
        if node.op.startswith("Arg") or (given is not None and not isinstance(given, gs.Constant)):
            return None
        axes = given.values.reshape(-1) if given is not None else node.attrs.get("axes", [])
        places = {int(axis) % 3 for axis in axes}
        keeps = bool(node.attrs.get("keepdims", 1))
        if not places or not (keeps or POSITIONS in places):
            return None
        # Without the axes, the row goes with the positions.
        now = [*sorted(moved(place) for place in places), *([] if keeps else [2])]
        if given is None:
            return Planar({"axes": now}, follows=keeps)
        return Planar(constants={1: np.asarray(now, np.int64)}, follows=keeps)

    def folds(self, node: Node) -> bool:
        return node.op == "ReduceMean" and bool(node.attr("keepdims", 1))

    def shrink(self, node: Node, shrink: Shrink) -> None:
        axes = [axis for axis in node.memo.get("mean", ()) if shrink.touched(axis)]
        if axes:
            before = np.prod([axis_size(axis) for axis in axes], dtype=np.float64)
            shrink.scale_output(node, float(np.prod([shrink.size(axis) for axis in axes]) / before))

    def value(self, node: Node, inputs: list[Array | None], shapes: list[tuple[int, ...]]) -> Array | None:
        functions: dict[str, Callable[..., Any]] = {
            "ReduceProd": np.prod,
            "ReduceSum": np.sum,
            "ReduceMax": np.max,
            "ReduceMin": np.min,
        }
        function = functions.get(node.op)
        given = inputs[1] if len(inputs) > 1 else np.asarray(node.attr("axes") or [])
        if function is None or inputs[0] is None or given is None:
            return None
        axes = tuple(int(a) for a in np.atleast_1d(given)) or None
        keep = bool(node.attr("keepdims", 1))
        return np.asarray(function(inputs[0], axis=axes, keepdims=keep), inputs[0].dtype)


@register
class Pool(Rule):
    """Pooling over the image: each channel by itself, and a channel of zeros gives zeros."""

    ops = ("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
    kind = "pool"
    traits = Traits(hands_on=True, heavy=True)
    each: ClassVar[dict[str, Traits]] = {
        **dict.fromkeys(("GlobalMaxPool", "GlobalLpPool"), replace(traits, heavy=False)),
        "GlobalAveragePool": replace(traits, heavy=False, linear=(0,)),
    }
    functions: ClassVar[dict[str, Function]] = {
        "MaxPool": windows.max_pool,
        "AveragePool": windows.average_pool,
        "LpPool": windows.lp_pool,
        **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), windows.global_pool),
    }

    def planar(self, node: gs.Node, ranks: Sequence[int | None]) -> Planar | None:
        return Planar(windowed(node)) if len(node.outputs) == 1 else None

    def constants(self, node: Node, given: Mapping[int, Known]) -> Known | None:
        """Extrema and means over the image: a constant is its own, but for zeros that an average counts beside it."""
        known = given.get(0)
        if node.op in ("LpPool", "GlobalLpPool") or known is None or known.place != 1:
            return None
        if node.op == "AveragePool" and padded(node) and node.attr("count_include_pad", 0):
            return Known(1, known.mask & (known.values == 0), np.zeros(len(known.mask)))
        return known

    def folds(self, node: Node) -> bool:
        return node.op == "GlobalAveragePool"

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x = node.axes(0)
        build.freeze(x[2:], "positions of the image")
        if node.op.startswith("Global"):
            spatial: tuple[Axis, ...] = tuple(() for _ in x[2:])
        else:
            inferred = build.inferred(node)[0].axes
            if inferred is None:
                raise Freeze("the extent of the output is unknown")
            spatial = tuple(opaque(axis_size(a)) for a in inferred[2:])
        result = [Tensor((x[0], x[1], *spatial), node.tensor(0).dtype)]
        if len(node.gs.outputs) > 1:
            # The indices of the maxima count positions of the whole tensor, channels included.
            build.freeze(x, "MaxPool hands out flat indices")
            result.append(Tensor(tuple((Factor(axis_size(a)),) if a else () for a in result[0].axes or ()), None))
        return result
