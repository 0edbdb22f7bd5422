"""Small models that passes have something to do on."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto
from planted import Subject
from sketch import Sketch
from small_models import SUBJECTS, body, image, out, rows, subject


@subject()
def folded(s: Sketch) -> None:
    """Weights that are computed from constants, two of one shape."""
    v, w = (s.op("Gemm", s.weight(6, 6), s.weight(6, 6), alpha=0.5, transB=1) for _ in range(2))
    x = s.op("Relu", s.op("MatMul", s.op("Relu", rows(s)), v))
    out(s, s.op("Relu", s.op("MatMul", x, w)), 6, 3)


#: Folding that leaves all but the least to hwpass's own: what ONNX Runtime computes is not ours to get wrong.
LIMITED = (
    "fold{limit=16},fuse-bn,rotate-streams,fold-redundant,prune-channels{channels=0.6x,score=l2,align=1},lower-norms,"
    "verify"
)


#: Scales that are not folded are for rotations to find.
UNFUSED = LIMITED.replace("fold{limit=16},fuse-bn", "fold")


@subject(pipeline=LIMITED)
def foldable(s: Sketch) -> None:
    """Constants computed from constants, views of weights, an Identity, an If that is decided."""
    x = s.op("Identity", s.linear(s.input(["N", 4]), 4, 40))
    w = s.rng.standard_normal((40, 40)) / 6
    x = s.op("Tanh", s.op("MatMul", x, s.op("Transpose", s.const(w.T), perm=[1, 0])))
    x = s.op("Tanh", s.op("MatMul", x, s.op("Reshape", s.const(w), s.const([40, 40]))))
    x = s.op("Add", x, s.op("Mul", s.weight(40, fan=4), s.const(2.0)))
    bodies = {name: body(s, op, x, 40) for name, op in (("then_branch", "Relu"), ("else_branch", "Neg"))}
    out(s, s.op("If", s.const(True), **bodies), 40, 2)


@subject(pipeline=LIMITED)
def standardised(s: Sketch) -> None:
    """A weight that a batch norm in training mode standardises."""
    w, one = s.weight(1, 6, 27), s.const(np.ones(6, np.float32))
    scaled = s.ops("BatchNormalization", w, one, s.weight(6, fan=4), s.const(np.zeros(6)), one, count=3,
                   training_mode=1, epsilon=1e-2)[0]  # fmt: skip
    x = s.op("Conv", s.input(["N", 3, 4, 4]), s.op("Reshape", scaled, s.const([6, 3, 3, 3])), pads=[1] * 4)
    out(s, s.op("Relu", x), 6)


@subject()
def computed_shapes(s: Sketch) -> None:
    """Targets of reshapes that are computed from extents, and a row that is expanded to the batch."""

    def extent(x: str, place: int) -> str:
        return s.op("Unsqueeze", s.op("Gather", s.op("Shape", x), s.const(place), axis=0), s.const([0]))

    x = s.linear(s.input(["N", "T", 4], "x1"), 4, 8)
    first = s.op("Concat", extent(x, 0), s.const([1, -1]), axis=0)
    ones = s.op("ConstantOfShape", s.op("Shape", first), value=onnx.numpy_helper.from_array(np.ones(1, np.int64)))
    first = s.op("Where", s.op("Equal", first, s.op("Mul", ones, s.const(-1))), ones, first)
    x = s.op("Add", s.op("Expand", s.weight(1, 1, 8), first), x)
    y = s.op("Reshape", s.linear(x, 8, 6), s.op("Concat", extent(x, 0), extent(x, 1), s.const([2, 3]), axis=0))
    y = s.op("Tanh", s.op("Transpose", y, perm=[1, 0, 2, 3]))
    y = s.op("Reshape", y, s.op("Concat", extent(x, 0), extent(x, 1), s.const([6]), axis=0))
    y = s.op("Reshape", s.op("Relu", y), s.op("Concat", extent(x, 0), s.const([-1, 6]), axis=0))
    out(s, s.op("Tanh", s.linear(y, 6, 8)), 8, 3)


@subject()
def fused(s: Sketch) -> None:
    """Batch norms behind Conv, ConvTranspose and Gemm."""

    def norm(x: str) -> str:
        parameters = [s.weight(6, fan=1), s.weight(6, fan=1), s.weight(6, fan=1), s.positive(6)]
        return s.op("Relu", s.op("BatchNormalization", x, *parameters, epsilon=0.05))

    x = norm(image(s))
    x = norm(s.op("ConvTranspose", x, s.weight(6, 6, 2, 2), strides=[2, 2]))
    x = s.op("Flatten", s.op("GlobalAveragePool", x))
    out(s, norm(s.op("Gemm", x, s.weight(6, 6), s.weight(6, fan=4), transB=1)), 6, 2)


@subject()
def scaled(s: Sketch) -> None:
    """Scales and shifts before and behind products, of which one pads and one has no bias, and hard swishes."""

    def hard(x: str, shift: float, high: float) -> str:
        cut = s.op("Clip", s.op("Add", x, s.const([shift])), s.const(0.0), s.const(high))
        return s.op("Div", s.op("Mul", x, cut), s.const([high]))

    x = s.op("Sub", s.op("Div", image(s), s.positive(6, 1, 1)), s.const([0.4]))
    x = s.op("Div", hard(x, 3.0, 6.0), s.positive(6, 1, 1))
    x = s.conv(s.op("Sub", x, s.weight(6, 1, 1, fan=4)), 6, 3, bias=True, group=2)
    x = s.conv(s.op("Add", s.op("Mul", s.op("Relu", x), s.const([1.7])), s.weight(6, 1, 1, fan=4)), 6, 6, kernel=3)
    x = s.op("Flatten", s.op("GlobalAveragePool", hard(x, 2.0, 5.0)))
    x = s.op("Mul", s.op("Add", s.linear(x, 6, 6), s.weight(6, fan=4)), s.positive(6))
    out(s, s.op("Relu", x), 6, 2)


@subject()
def unequal_bounds(s: Sketch) -> None:
    """A Clip whose bound is not what divides it."""
    x = s.op("Relu", image(s))
    cut = s.op("Clip", s.op("Add", x, s.const([1.0])), s.const(0.0), s.const(2.0))
    out(s, s.op("Relu", s.op("Div", s.op("Mul", x, cut), s.const([3.0]))), 6)


@subject()
def nearly_equal(s: Sketch) -> None:
    """Two weights that differ in the middle alone, and an Identity, so that folding has something to do."""
    w = s.rng.standard_normal((40, 40)) / 6
    v = w.copy()
    v[18:22] *= -1
    x = s.op("Identity", s.op("Tanh", s.linear(s.input(["N", 4]), 4, 40)))
    out(s, s.op("Tanh", s.op("MatMul", s.op("Tanh", s.op("MatMul", x, s.const(w))), s.const(v))), 40, 2)


@subject()
def identity(s: Sketch) -> None:
    """An Identity in one operand of a difference."""
    x, y = rows(s), rows(s)
    out(s, s.op("Sub", s.op("Identity", s.op("Relu", x)), y), 6, 3)


@subject()
def extents(s: Sketch) -> None:
    """Extents that a Shape with a start and an end hands out."""
    x = rows(s)
    s.inputs[0].type.tensor_type.shape.dim[0].dim_value = 2
    size = s.op("Cast", s.op("ReduceProd", s.op("Shape", s.inputs[0].name, start=0, end=2)), to=TensorProto.FLOAT)
    out(s, s.op("Relu", s.op("Mul", x, size)), 6, 3)


@subject(channels=0.8)
def alike(s: Sketch) -> None:
    """Channels of nearly equal weights, and of equal weights with different biases."""
    w, b = 0.3 * s.rng.standard_normal((8, 3, 1, 1)), s.rng.standard_normal(8)
    w[5] = w[4]
    x = s.op("Relu", s.op("Conv", s.input(["N", 3, 4, 4]), s.const(w), s.const(b)))
    out(s, s.op("Relu", s.conv(x, 6, 8, bias=True)), 6)


@subject(channels=0.8)
def padded_constant(s: Sketch) -> None:
    """A constant channel that meets zeros beside the image."""
    w, b = s.rng.standard_normal((8, 3, 1, 1)), s.rng.standard_normal(8)
    w[1], b[1] = 0, 2.5
    x = s.op("Relu", s.op("Conv", s.input(["N", 3, 4, 4]), s.const(w), s.const(b)))
    out(s, s.op("Relu", s.conv(x, 6, 8, kernel=3, bias=True)), 6)


@subject(channels=0.8)
def redundant(s: Sketch) -> None:
    """Dead, constant and duplicate channels."""
    w, b = s.rng.standard_normal((8, 3, 1, 1)), s.rng.standard_normal(8)
    w[1], b[1] = 0, 0.7
    w[2], b[2] = 0, 1.3
    w[5], b[5] = w[4], b[4]
    x = s.op("Relu", s.op("Conv", s.input(["N", 3, 4, 4]), s.const(w), s.const(b)))
    v = s.rng.standard_normal((6, 8, 1, 1))
    v[:, 7] = 0
    x = s.op("Relu", s.op("Conv", x, s.const(v), s.weight(6, fan=4)))
    out(s, x, 6)


def _transformer(s: Sketch, width: int = 8, last: bool = True) -> str:
    x = s.op("Add", s.linear(s.input(["N", 5, 4]), 4, width), s.weight(width, fan=4))
    for _ in range(2):
        y = s.op("LayerNormalization", x, s.positive(width), s.weight(width, fan=4), epsilon=0.05)
        y = s.op("Relu", s.op("Add", s.linear(y, width, 6), s.weight(6, fan=4)))
        x = s.op("Add", x, s.op("Add", s.linear(y, 6, width), s.weight(width, fan=4)))
    return s.op("LayerNormalization", x, s.positive(width), s.weight(width, fan=4), epsilon=0.05) if last else x


@subject()
def transformer(s: Sketch) -> None:
    """A stream that layer normalisations alone read, with a bias, and a reader without one."""
    out(s, _transformer(s), 8, 3)


@subject(opset=23)
def transformer_23(s: Sketch) -> None:
    """The same where the operator set has an RMS normalisation."""
    out(s, _transformer(s), 8, 3)


@subject(keep=["MatMul_matmul3"])
def centred(s: Sketch) -> None:
    """A stream that is centred and neither turned nor thinned: behind its last norm is more than a product."""
    out(s, s.op("Tanh", _transformer(s)), 8, 3)


@subject(pipeline=UNFUSED)
def composed(s: Sketch) -> None:
    """A layer normalisation of many operators, and a scale of what is written."""
    x = s.op("Mul", s.linear(s.input(["N", 5, 4]), 4, 8), s.positive(8))
    x = s.op("Add", x, s.linear(s.op("Relu", s.linear(s.inputs[0].name, 4, 6)), 6, 8))
    mean = s.axes_op("ReduceMean", x, [-1], since=18)
    centre = s.op("Sub", x, mean)
    variance = s.axes_op("ReduceMean", s.op("Pow", centre, s.const(2.0)), [-1], since=18)
    y = s.op("Div", centre, s.op("Sqrt", s.op("Add", variance, s.const(0.05))))
    y = s.op("Add", s.op("Mul", y, s.positive(8)), s.weight(8, fan=4))
    out(s, y, 8, 3)


def _by_heads(s: Sketch, x: str, perm: list[int]) -> str:
    return s.op("Transpose", s.op("Reshape", x, s.const([0, 5, 4, 3])), perm=perm)


def _attended(s: Sketch, q: str, k: str, v: str) -> None:
    """Four heads of three dimensions: q and v [N, 4, 5, 3], k [N, 4, 3, 5]."""
    y = s.op("MatMul", s.op("Softmax", s.op("MatMul", q, k), axis=-1), v)
    y = s.op("Reshape", s.op("Transpose", y, perm=[0, 2, 1, 3]), s.const([0, 5, 12]))
    out(s, s.op("Tanh", s.linear(y, 12, 8)), 8, 3)


@subject(pipeline="rotate-heads,prune-channels{channels=0.6x,score=l2,align=1},verify")
def turned_heads(s: Sketch) -> None:
    """Heads that are turned, a scale by an extent."""
    x = s.op("Tanh", s.linear(s.input(["N", 5, 4]), 4, 8))
    q, k, v = (s.op("Add", s.linear(x, 8, 12), s.weight(12, fan=1)) for _ in range(3))
    q = _by_heads(s, q, [0, 2, 1, 3])
    extent = s.op("Cast", s.op("Slice", s.op("Shape", q), s.const([3]), s.const([4])), to=TensorProto.FLOAT)
    q = s.op("Div", q, s.op("Sqrt", extent))
    _attended(s, q, _by_heads(s, k, [0, 2, 3, 1]), _by_heads(s, v, [0, 2, 1, 3]))


@subject()
def packed_heads(s: Sketch) -> None:
    """One product for queries, keys and values, each scaled by a number."""
    x = s.op("Tanh", s.linear(s.input(["N", 5, 4]), 4, 8))
    y = s.op("Add", s.linear(x, 8, 36), s.weight(36, fan=1))
    y = s.op("Transpose", s.op("Reshape", y, s.const([0, 5, 4, 3, 3])), perm=[3, 0, 2, 1, 4])
    q, k, v = (s.op("Gather", y, s.const(i), axis=0) for i in range(3))
    k = s.op("Transpose", s.op("Div", k, s.const(1.5)), perm=[0, 1, 3, 2])
    _attended(s, s.op("Mul", q, s.const(0.6)), k, v)


@subject()
def watched_heads(s: Sketch) -> None:
    """Queries that something else reads too."""
    x = s.op("Tanh", s.linear(s.input(["N", 5, 4]), 4, 8))
    q, k, v = (s.op("Add", s.linear(x, 8, 12), s.weight(12, fan=1)) for _ in range(3))
    out(s, s.op("Tanh", q), 12, 3)
    _attended(s, _by_heads(s, q, [0, 2, 1, 3]), _by_heads(s, k, [0, 2, 3, 1]), _by_heads(s, v, [0, 2, 1, 3]))


@subject()
def rotary_heads(s: Sketch) -> None:
    """Queries whose dimensions are scaled apart, as a rotary embedding does."""
    x = s.op("Tanh", s.linear(s.input(["N", 5, 4]), 4, 8))
    q, k, v = (s.op("Add", s.linear(x, 8, 12), s.weight(12, fan=1)) for _ in range(3))
    q = s.op("Mul", _by_heads(s, q, [0, 2, 1, 3]), s.const(np.array([0.2, 1.0, 3.0])))
    _attended(s, q, _by_heads(s, k, [0, 2, 3, 1]), _by_heads(s, v, [0, 2, 1, 3]))


def _refit(name: str, *shape: int) -> None:
    """The subject with data to refit it on."""
    data = np.random.default_rng(5).standard_normal(shape).astype(np.float32)
    known = SUBJECTS[name]
    SUBJECTS[f"refit_{name}"] = Subject(known.make, {**known.options, "compensate": "auto", "calib": {"x1": data}})


_refit("conv", 64, 3, 5, 5)
_refit("gemm", 256, 4)
_refit("wide", 256, 24)
_refit("lstm", 4, 2, 3)
_refit("transformer", 64, 5, 4)
_refit("centred", 64, 5, 4)

#: Fidelity is measured on samples that the fit did not see: it takes some more to be good there as well.
_MANY = np.random.default_rng(5).standard_normal((1024, 24)).astype(np.float32)
SUBJECTS["held_to_data"] = Subject(
    SUBJECTS["wide"].make,
    {**SUBJECTS["refit_wide"].options, "calib": {"x1": _MANY}, "fidelity": ["rel_l2<=0.2"]},
)


@subject(pipeline="fold,prune-channels{channels=0.6x,score=l2,align=1},share-rows,verify")
def equal_rows(s: Sketch) -> None:
    """A table of 2,000 rows, of which 500 differ."""
    table = s.const(s.rng.standard_normal((500, 40))[np.arange(2000) * 7 % 500])
    ids = s.input(["N", 4], name="ids", dtype=TensorProto.INT64)
    x = s.op("Relu", s.op("MatMul", s.op("Gather", table, ids), s.weight(40, 12)))
    s.output(s.op("MatMul", x, s.weight(12, 3)))
