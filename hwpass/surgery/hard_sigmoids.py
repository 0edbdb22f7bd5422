"""Hard sigmoids that are written out, Clip(x + b, 0, h) / h, as the one operator that computes them."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from hwpass.model.model import Model
from hwpass.surgery.affine_steps import Step, step_of

#: Operator sets have HardSigmoid without legacy attributes from here on.
FIRST = 6

#: Constants that are reciprocal up to rounding are taken for that.
ROUNDING = 1e-6


def fuse_hard_sigmoids(model: Model) -> bool:
    """Write all of them as HardSigmoid nodes, [Mul x,] where they make a hard swish; whether there was one."""
    if model.opset < FIRST:
        return False
    ends = {id(t) for t in model.graph.outputs}
    fused = [_fuse(node, ends) for node in list(model.graph.nodes) if node.op == "Clip" and not node.domain]
    if any(fused):
        model.graph.cleanup(remove_unused_node_outputs=False)
        model.graph.toposort()
        model.invalidate_shapes()
    return any(fused)


def _fuse(clip: gs.Node, ends: set[int]) -> bool:
    high = _height(clip)
    shift = _single(_maker(clip.inputs[0], ends)) if high else None
    if high is None or shift is None or not shift.shifts or (shift.node.op == "Sub" and shift.factor.min() < 0):
        return False
    data, slope = shift.data, 1.0
    scale = _single(_maker(data, ends))
    if scale is not None and scale.scales:
        data, slope = scale.data, float(scale.factor.item())
    output = clip.outputs[0]
    if high != 1.0:
        found = _divided(output, high, ends)
        if found is None:
            return False
        last, product = found
        result = last.outputs[0]
        last.outputs.clear()
        if product is None:
            output = result
        else:  # x Clip(..) / h: the product gives what the division gave
            product.outputs = [result]
    clip.outputs.clear()
    offset = float(shift.shift.item())
    attributes = {"alpha": slope / high, "beta": offset / high}
    clip.op, clip.attrs = "HardSigmoid", attributes
    clip.inputs = [data]
    clip.outputs = [output]
    return True


def _height(clip: gs.Node) -> float | None:
    """The upper bound of a Clip from 0 of float32 numbers; None for any other."""
    if "max" in clip.attrs or "min" in clip.attrs:
        low, high = clip.attrs.get("min"), clip.attrs.get("max")
    else:
        bounds = [t.values for t in clip.inputs[1:] if isinstance(t, gs.Constant) and t.values.size == 1]
        if len(bounds) != 2 or bounds[0].dtype != np.float32:
            return None
        low, high = float(bounds[0].item()), float(bounds[1].item())
    return float(high) if low == 0 and high is not None and 0 < high < np.inf else None


def _single(node: gs.Node | None) -> Step | None:
    """What a node does with a single float32 number, which keeps the shape of its data."""
    step = step_of(node) if node is not None and len(node.outputs) == 1 else None
    if step is None or step.factor.size != 1 or step.factor.ndim > 1:
        return None
    constant = next(t for t in step.node.inputs if isinstance(t, gs.Constant))
    return step if constant.values.dtype == np.float32 else None


def _maker(tensor: gs.Tensor, ends: set[int]) -> gs.Node | None:
    """The node that makes a tensor which nothing else reads."""
    alone = len(tensor.inputs) == 1 and len(tensor.outputs) == 1 and id(tensor) not in ends
    return tensor.inputs[0] if alone else None


def _reader(tensor: gs.Tensor, ends: set[int]) -> gs.Node | None:
    """The only reader of a tensor."""
    return tensor.outputs[0] if len(tensor.outputs) == 1 and id(tensor) not in ends else None


def _divided(tensor: gs.Tensor, high: float, ends: set[int]) -> tuple[gs.Node, gs.Node | None] | None:
    """What divides a tensor by its largest value, and the product of it with other activations before that; None
    where nothing does."""
    product, reader = None, _reader(tensor, ends)
    if reader is not None and reader.op == "Mul" and not any(isinstance(t, gs.Constant) for t in reader.inputs):
        product, reader = reader, _reader(reader.outputs[0], ends)
    step = _single(reader)
    if step is None or not step.scales or abs(float(step.factor.item()) * high - 1.0) > ROUNDING:
        return None
    return step.node, product
