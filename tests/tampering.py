"""Changes to a pruned model, or to the plan beside it, that `hwpass verify --plan` must notice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hwpass.planning.plan import Plan


@dataclass(frozen=True)
class Tampering:
    """A change, the subjects whose results it is made to, and the status that verify ends with."""

    says: str
    change: Callable[[onnx.ModelProto, Plan], None]
    subjects: tuple[str, ...]
    status: int = 5


#: Results with their weights as they were, and with refitted ones.
BOTH = ("conv", "refit_conv")

TAMPERINGS: list[Tampering] = []


def tampering(
    *subjects: str, status: int = 5
) -> Callable[[Callable[[onnx.ModelProto, Plan], None]], Callable[[onnx.ModelProto, Plan], None]]:
    """Enter a change under its function's name."""

    def enter(change: Callable[[onnx.ModelProto, Plan], None]) -> Callable[[onnx.ModelProto, Plan], None]:
        TAMPERINGS.append(Tampering(change.__name__, change, subjects or BOTH, status))
        return change

    return enter


def weight(model: onnx.ModelProto, rank: int, number: int = 0) -> TensorProto:
    """A weight of floating point by its rank, in the file's order; the largest rank there is for -1."""
    floats = [t for t in model.graph.initializer if t.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16)]
    rank = max(len(t.dims) for t in floats) if rank < 0 else rank
    found: TensorProto = [t for t in floats if len(t.dims) == rank][number]
    return found


def change(tensor: TensorProto, how: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    """Other values for a tensor."""
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(how(values.copy()), values.dtype), tensor.name))


def node(model: onnx.ModelProto, op: str) -> onnx.NodeProto:
    """The first node of an operator."""
    found: onnx.NodeProto = next(n for n in model.graph.node if n.op_type == op)
    return found


# --- weights


@tampering("conv", "refit_conv", "gemm", "lstm", "embedding", "transformer", "half")
def a_weight_is_larger_by_a_hundredth(model: onnx.ModelProto, plan: Plan) -> None:
    change(weight(model, -1), lambda v: v * v.dtype.type(1.02 if v.dtype == np.float16 else 1.01))


@tampering("conv", "refit_conv", "gemm", "lstm", "embedding")
def one_number_is_larger_by_a_tenth(model: onnx.ModelProto, plan: Plan) -> None:
    def one(values: NDArray[Any]) -> NDArray[Any]:
        values.reshape(-1)[np.abs(values).argmax()] *= 1.1
        return values

    change(weight(model, -1), one)


@tampering()
def a_weight_has_the_other_sign(model: onnx.ModelProto, plan: Plan) -> None:
    change(weight(model, -1), np.negative)


@tampering()
def two_producers_are_changed_about(model: onnx.ModelProto, plan: Plan) -> None:
    change(weight(model, 4), lambda v: v[[1, 0, *range(2, len(v))]])


@tampering()
def two_consumers_are_changed_about(model: onnx.ModelProto, plan: Plan) -> None:
    change(weight(model, 4, 1), lambda v: v[:, [1, 0, *range(2, v.shape[1])]])


@tampering("conv", "refit_conv", "grouped", "deconv")
def a_kernel_is_flipped(model: onnx.ModelProto, plan: Plan) -> None:
    change(weight(model, 4, 1), lambda v: v[..., ::-1])


@tampering("conv", "refit_conv", "einsum")
def a_bias_is_zero(model: onnx.ModelProto, plan: Plan) -> None:
    change(weight(model, 1), lambda v: 0 * v)


@tampering()
def biases_of_two_layers_are_exchanged(model: onnx.ModelProto, plan: Plan) -> None:
    one, other = weight(model, 1), weight(model, 1, 1)
    values = [numpy_helper.to_array(t).copy() for t in (one, other)]
    change(one, lambda _: values[1])
    change(other, lambda _: values[0])


@tampering("wide", "refit_wide")
def weights_of_two_layers_are_exchanged(model: onnx.ModelProto, plan: Plan) -> None:
    shapes: dict[tuple[int, ...], TensorProto] = {}
    for tensor in model.graph.initializer:
        other = shapes.setdefault(tuple(tensor.dims), tensor)
        if other is not tensor and len(tensor.dims) == 2:
            tensor.name, other.name = other.name, tensor.name
            return
    raise AssertionError("no two weights of one shape")


@tampering()
def a_channel_is_that_of_another(model: onnx.ModelProto, plan: Plan) -> None:
    change(weight(model, 4), lambda v: np.concatenate([v[1:2], v[1:]]))


@tampering()
def weights_are_rounded_to_eight_bits(model: onnx.ModelProto, plan: Plan) -> None:
    change(weight(model, 4, 1), lambda v: np.round(v * 60) / 60)


@tampering("qdq")
def integers_are_off_by_one(model: onnx.ModelProto, plan: Plan) -> None:
    change(next(t for t in model.graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) == 4),
           lambda v: v + 1)  # fmt: skip


@tampering("qdq")
def a_scale_is_another(model: onnx.ModelProto, plan: Plan) -> None:
    scales = node(model, "DequantizeLinear").input[1]
    change(next(t for t in model.graph.initializer if t.name == scales), lambda v: v[::-1])


@tampering(status=3)
def a_weight_is_missing(model: onnx.ModelProto, plan: Plan) -> None:
    gone = weight(model, 4)
    model.graph.initializer.remove(gone)


@tampering()
def a_weight_has_other_extents(model: onnx.ModelProto, plan: Plan) -> None:
    tensor = weight(model, 4, 1)
    tensor.dims[0], tensor.dims[1] = 2 * tensor.dims[0], tensor.dims[1] // 2


# --- the graph


@tampering()
def padding_is_elsewhere(model: onnx.ModelProto, plan: Plan) -> None:
    conv = node(model, "Conv")
    next(a for a in conv.attribute if a.name == "pads").ints[:] = [0, 0, 2, 2]


@tampering("gemm", "refit_gemm")
def a_factor_is_another(model: onnx.ModelProto, plan: Plan) -> None:
    gemm = next(n for n in model.graph.node if any(a.name == "alpha" for a in n.attribute))
    next(a for a in gemm.attribute if a.name == "alpha").f = 0.6


@tampering()
def an_activation_is_another(model: onnx.ModelProto, plan: Plan) -> None:
    node(model, "Relu").op_type = "Elu"


@tampering()
def an_activation_is_gone(model: onnx.ModelProto, plan: Plan) -> None:
    relu = node(model, "Relu")
    for reader in model.graph.node:
        reader.input[:] = [relu.input[0] if name == relu.output[0] else name for name in reader.input]
    model.graph.node.remove(relu)


@tampering()
def a_layer_is_gone(model: onnx.ModelProto, plan: Plan) -> None:
    """The second of two that keep their width."""
    second = [n for n in model.graph.node if n.op_type == "Conv"][1]
    for reader in model.graph.node:
        reader.input[:] = [second.input[0] if name == second.output[0] else name for name in reader.input]
    model.graph.node.remove(second)


@tampering("conv", "refit_conv", "lstm", "refit_lstm")
def a_node_is_added(model: onnx.ModelProto, plan: Plan) -> None:
    """What the model gives is taken once more than it was."""
    output = model.graph.output[0].name
    last = next(n for n in model.graph.node if output in n.output)
    last.output[0] = "before"
    model.graph.initializer.append(numpy_helper.from_array(np.array(1.001, np.float32), "factor"))
    model.graph.node.append(helper.make_node("Mul", ["before", "factor"], [output], name="more"))


@tampering("refit_lstm", "lstm")
def a_direction_is_another(model: onnx.ModelProto, plan: Plan) -> None:
    node(model, "LSTM").attribute.append(helper.make_attribute("direction", "reverse"))


@tampering("transformer", "refit_transformer")
def an_epsilon_is_another(model: onnx.ModelProto, plan: Plan) -> None:
    change(next(t for t in model.graph.initializer if t.name.endswith("_epsilon")), lambda v: 2 * v)


@tampering("transformer", "refit_transformer")
def a_norm_is_along_another_axis(model: onnx.ModelProto, plan: Plan) -> None:
    mean = node(model, "ReduceMean")
    next(a for a in mean.attribute if a.name == "axes").ints[:] = [1]


@tampering(status=3)
def an_output_has_another_name(model: onnx.ModelProto, plan: Plan) -> None:
    output = model.graph.output[0]
    last = next(n for n in model.graph.node if output.name in n.output)
    output.name = last.output[0] = "renamed"


@tampering(status=3)
def an_input_has_another_name(model: onnx.ModelProto, plan: Plan) -> None:
    given = model.graph.input[0]
    for reader in model.graph.node:
        reader.input[:] = ["renamed" if name == given.name else name for name in reader.input]
    given.name = "renamed"


@tampering(status=3)
def an_input_is_of_another_type(model: onnx.ModelProto, plan: Plan) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE


@tampering(status=3)
def an_output_is_added(model: onnx.ModelProto, plan: Plan) -> None:
    model.graph.output.append(onnx.ValueInfoProto())
    model.graph.output[-1].CopyFrom(model.graph.output[0])
    model.graph.output[-1].name = node(model, "Relu").output[0]
    model.graph.output[-1].type.tensor_type.ClearField("shape")


@tampering("softmax_13")
def the_operator_set_is_older(model: onnx.ModelProto, plan: Plan) -> None:
    next(e for e in model.opset_import if e.domain == "").version = 12


@tampering("refit_conv", "refit_gemm", "refit_lstm")
def what_hwpass_wrote_of_itself_is_gone(model: onnx.ModelProto, plan: Plan) -> None:
    """Nothing says any more that the refitted weights are those that hwpass wrote."""
    del model.metadata_props[:]


# --- the plan


@tampering()
def the_plan_keeps_another_channel(model: onnx.ModelProto, plan: Plan) -> None:
    group = plan.groups[0]
    gone = next(i for i in range(group.width) if i not in group.kept)
    group.kept[:] = sorted([gone, *group.kept[1:]])


@tampering()
def the_plan_keeps_one_channel_less(model: onnx.ModelProto, plan: Plan) -> None:
    del plan.groups[0].kept[-1]


@tampering()
def the_plan_keeps_all_of_a_group(model: onnx.ModelProto, plan: Plan) -> None:
    plan.groups[-1].kept[:] = range(plan.groups[-1].width)


@tampering()
def the_plan_lacks_a_group(model: onnx.ModelProto, plan: Plan) -> None:
    del plan.groups[0]


@tampering(status=3)
def the_plan_is_of_another_model(model: onnx.ModelProto, plan: Plan) -> None:
    for group in plan.groups:
        group.name += "_of_another"
