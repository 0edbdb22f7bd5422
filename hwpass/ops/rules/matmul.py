"""Products of matrices: the contracted indices of both operands are the same channels, and vanish."""

from __future__ import annotations

from typing import ClassVar

import onnx_graphsurgeon as gs

from hwpass.ops.axes import Axis, Factor, with_zero
from hwpass.ops.functions import products
from hwpass.ops.functions.common import Function
from hwpass.ops.rule import Extent, Form, Freeze, Node, Product, Relate, Rule, Tensor, Traits, register


def is_zero(axis: Axis) -> bool:
    """Whether the tensor is zero wherever an index of the axis is removed."""
    return all(f.zero for f in axis if f.ids is not None)


def contract(build: Relate, one: Axis, other: Axis, reason: str) -> Axis:
    """Equate two contracted axes. A removed term must be zero in the twin, in one of the operands at least."""
    joined, _ = build.unify(one, other, reason)
    if not (is_zero(one) or is_zero(other)):
        build.freeze([one, other], f"{reason}, and a removed term would not be zero")
    return joined


def multiply(
    node: Node,
    build: Relate,
    a: tuple[Axis, ...],
    b: tuple[Axis, ...],
    positions: tuple[int, int] = (0, 1),
) -> tuple[Axis, ...]:
    """Couple a product of matrices, stacked or not: y[.., m, n] = sum over k of a[.., m, k] b[.., k, n].

    Sets the extent, and the product where an operand is constant; returns the axes of the result.
    """
    if not a or not b:
        raise Freeze("a scalar operand")
    rows: Axis | None = a[-2] if len(a) > 1 else None
    columns: Axis | None = b[-1] if len(b) > 1 else None
    inner = contract(build, a[-1], b[-2] if len(b) > 1 else b[0], f"{node.op} contracts")
    left, right = list(a[:-2]), list(b[:-2])
    depth = max(len(left), len(right))
    left, right = [()] * (depth - len(left)) + left, [()] * (depth - len(right)) + right
    batch: list[Axis] = []
    for x, y in zip(left, right, strict=True):
        if x and y:
            joined, _ = build.unify(x, y, f"{node.op} pairs its batches")
            batch.append(with_zero(joined, is_zero(x) or is_zero(y)))
        else:
            batch.append(x or y)
    outer = [axis for axis in (rows, columns) if axis is not None]
    first, second = positions
    shared = node.tensor(second).constant and len(b) <= 2
    node.extent = Extent(
        groups=() if shared else tuple(f for axis in batch for f in axis),
        m=tuple(f for axis in (*(batch if shared else ()), *([rows] if rows else [])) for f in axis),
        n=columns or (),
        k=inner,
    )
    if node.tensor(second).constant and len(b) == 2:
        node.product = Product(first, len(a) - 1, second, 1, 0)
    elif node.tensor(first).constant and len(a) == 2:
        node.product = Product(second, max(len(b) - 2, 0), first, 0, 1)
    return (*batch, *outer)


@register
class MatMul(Rule):
    """y[.., m, n] = sum over k of a[.., m, k] b[.., k, n]."""

    ops = ("MatMul",)
    kind = "matmul"
    traits = Traits(form=Form("matrix", bias=False), heavy=True)
    functions: ClassVar[dict[str, Function]] = {"MatMul": products.matmul}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        return [Tensor(multiply(node, build, node.axes(0), node.axes(1)), node.tensor(0).dtype)]


def gemm(
    node: Node,
    build: Relate,
    a: tuple[Axis, ...],
    b: tuple[Axis, ...],
    positions: tuple[int, int, int] = (0, 1, 2),
) -> tuple[Axis, ...]:
    """Couple alpha A B + beta C, either side transposed; positions of A, B and C.

    Sets the extent, and the product where B is constant; returns the axes of the result.
    """
    data, weight, bias = positions
    rows, inner_a = (a[1], a[0]) if node.attr("transA", 0) else (a[0], a[1])
    inner_b, columns = (b[1], b[0]) if node.attr("transB", 0) else (b[0], b[1])
    inner = contract(build, inner_a, inner_b, f"{node.op} contracts")
    result = [rows, columns]
    if node.has(bias):
        c = node.axes(bias)
        for place in range(2):
            axis = c[place - 2 + len(c)] if place >= 2 - len(c) else ()
            if axis and result[place]:
                joined, _ = build.unify(result[place], axis, "one bias per output channel")
                result[place] = with_zero(joined, is_zero(result[place]) and is_zero(axis))
            else:
                result[place] = with_zero(result[place], False)
    node.extent = Extent(m=rows, n=columns, k=inner)
    if node.tensor(weight).constant:
        transposed = int(bool(node.attr("transB", 0)))
        shift = bias if node.has(bias) and node.tensor(bias).constant else None
        node.product = Product(data, 0 if node.attr("transA", 0) else 1, weight, 1 - transposed, transposed, shift)
    return (result[0], result[1])


def labels_of(node: Node) -> tuple[list[str], list[str], list[str]]:
    """The axes of both operands and of the result of a MatMul or an Einsum of two, by labels: equal ones are the same.

    Operands have two axes or more. Raises Freeze where an equation is not one of inputs of these ranks.
    """
    if node.op == "Einsum":
        (one, other), result = Einsum.labels(node)
        return list(one), list(other), list(result)
    ranks = [node.tensor(position).rank for position in (0, 1)]
    batch = [f"batch {place}" for place in range(max(ranks) - 2, 0, -1)]
    left, right = ([*batch[len(batch) - rank + 2 :], *own] for rank, own in zip(ranks, ("mk", "kn"), strict=True))
    return left, right, [*batch, "m", "n"]


@register
class Gemm(Rule):
    """y = alpha A B + beta C, either side transposed."""

    ops = ("Gemm",)
    kind = "matmul"
    traits = Traits(form=Form("matrix"), heavy=True)
    functions: ClassVar[dict[str, Function]] = {"Gemm": products.gemm}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        return [Tensor(gemm(node, build, node.axes(0), node.axes(1)), node.tensor(0).dtype)]

    def scaled(self, node: gs.Node) -> bool:
        return bool(node.attrs.get("alpha", 1.0) != 1.0 or node.attrs.get("beta", 1.0) != 1.0)

    def turned(self, node: gs.Node) -> bool:
        return bool(node.attrs.get("transA", 0))

    def weight_out(self, node: gs.Node) -> int:
        return 0 if node.attrs.get("transB", 0) else 1


@register
class Einsum(Rule):
    """Any contraction written with labels: equal labels are equal channels."""

    ops = ("Einsum",)
    kind = "matmul"
    traits = Traits(heavy=True)
    functions: ClassVar[dict[str, Function]] = {"Einsum": products.einsum}

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        inputs, target = self.labels(node)
        axes: dict[str, Axis] = {}
        zero: dict[str, bool] = {}
        for position, labels in enumerate(inputs):
            if len(set(labels)) != len(labels):
                raise Freeze("a diagonal in the equation")
            for label, axis in zip(labels, node.axes(position), strict=True):
                if axis and axes.get(label):
                    axes[label], _ = build.unify(axes[label], axis, f"Einsum label {label}")
                else:
                    axes[label] = axes.get(label) or axis
                zero[label] = zero.get(label, False) or (bool(axis) and is_zero(axis))
        for label, axis in axes.items():
            if label not in target and not zero[label]:
                build.freeze([axis], "Einsum contracts, and a removed term would not be zero")
        contracted = [c for c in axes if c not in target]
        first = set(inputs[0])
        node.extent = Extent(
            groups=_factors(axes, [c for c in target if all(c in labels for labels in inputs)]),
            m=_factors(axes, [c for c in target if c in first and not all(c in labels for labels in inputs)]),
            n=_factors(axes, [c for c in target if c not in first]),
            k=_factors(axes, contracted),
        )
        return [Tensor(tuple(with_zero(axes[c], zero[c]) for c in target), node.tensor(0).dtype)]

    @staticmethod
    def labels(node: Node) -> tuple[list[str], str]:
        """The labels of each input and of the result; those of an ellipsis, right-aligned, are digits.

        Raises Freeze where the equation is not one of inputs of these ranks.
        """
        equation = str(node.attr("equation")).replace(" ", "")
        terms, arrow, target = equation.partition("->")
        inputs, most = [], ""
        if terms.count(",") + 1 != len(node.inputs):
            raise Freeze(f"the equation has {terms.count(',') + 1} terms for {len(node.inputs)} inputs")
        for position, labels in enumerate(terms.split(",")):
            hidden = len(node.axes(position)) - len(labels.replace("...", ""))
            if hidden < 0 or (hidden and "..." not in labels) or hidden > 10:
                raise Freeze(f"term {labels!r} of the equation is none of {len(node.axes(position))} axes")
            digits = "9876543210"[10 - hidden :] if "..." in labels else ""
            most = max(most, digits, key=len)
            inputs.append(labels.replace("...", digits))
        if not arrow:
            letters = terms.replace(",", "").replace("...", "")
            target = "..." + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
        target = target.replace("...", most)
        unknown = set(target).difference(*inputs)
        if unknown:
            raise Freeze(f"the equation's result has {min(unknown)!r}, which no input has")
        return inputs, target


def _factors(axes: dict[str, Axis], labels: list[str]) -> tuple[Factor, ...]:
    return tuple(f for label in labels for f in axes[label])
