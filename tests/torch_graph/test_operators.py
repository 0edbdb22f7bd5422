"""Operators as ONNX Runtime computes them: operator sets, attributes and modes that the standard's cases leave out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch_cases import by_runtime, fed, gap, graph_of, node_model, results

from hwpass.ops.rule import NoFunction

RNG = np.random.default_rng(0)


def f(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.standard_normal(shape).astype(np.float32)


def i(*values: int) -> np.ndarray[Any, Any]:
    return np.asarray(values, np.int64)


IMAGE, WIDE = f(2, 4, 7, 6), f(1, 3, 9, 11)
LSTM = [f(5, 3, 4), f(2, 24, 4), f(2, 24, 6), f(2, 48)]
LENGTHS = np.asarray([5, 2, 3], np.int32)
GRU = [f(5, 3, 4), f(2, 18, 4), f(2, 18, 6), f(2, 36)]
RNN = [f(5, 3, 4), f(2, 6, 4), f(2, 6, 6), f(2, 12)]
BOTH = {"hidden_size": 6, "direction": "bidirectional"}

CASES: list[tuple[str, str, dict[str, Any], list[Any], dict[str, Any]]] = [
    ("softmax 11", "Softmax", {"axis": 1}, [IMAGE], {"opset": 11}),
    ("softmax 11 default", "Softmax", {}, [IMAGE], {"opset": 11}),
    ("log softmax 11", "LogSoftmax", {"axis": 2}, [IMAGE], {"opset": 11}),
    ("clip 6", "Clip", {"min": -0.5, "max": 0.25}, [IMAGE], {"opset": 6}),
    ("clip low", "Clip", {}, [IMAGE, np.float32(0)], {}),
    ("clip high", "Clip", {}, [IMAGE, None, np.float32(0)], {}),
    ("pad 10", "Pad", {"pads": [0, 0, 1, 2, 0, 0, 0, 3], "mode": "reflect"}, [IMAGE], {"opset": 10}),
    ("pad negative", "Pad", {}, [IMAGE, i(0, 0, -1, 2, 0, 0, 1, -2), np.float32(1.5)], {}),
    ("pad edge", "Pad", {"mode": "edge"}, [IMAGE, i(0, 0, 1, 2, 0, 0, 3, 1)], {}),
    ("pad wrap", "Pad", {"mode": "wrap"}, [IMAGE, i(0, 0, 1, 2, 0, 0, 3, 1)], {"opset": 19}),
    ("pad axes", "Pad", {}, [IMAGE, i(1, 2), np.float32(0), i(-1)], {"opset": 18}),
    ("squeeze 11", "Squeeze", {"axes": [0]}, [WIDE], {"opset": 11}),
    ("unsqueeze 11", "Unsqueeze", {"axes": [0, 2]}, [WIDE], {"opset": 11}),
    ("unsqueeze 13", "Unsqueeze", {}, [WIDE, i(-1, 0)], {}),
    ("reduce 11", "ReduceSum", {"axes": [1, -1], "keepdims": 0}, [IMAGE], {"opset": 11}),
    ("reduce 13", "ReduceSum", {}, [IMAGE, i(1, -1)], {}),
    ("reduce all", "ReduceMean", {"keepdims": 0}, [IMAGE], {}),
    ("reduce 18", "ReduceL2", {}, [IMAGE, i(2)], {"opset": 18}),
    ("slice 9", "Slice", {"starts": [1, -3], "ends": [9, -1], "axes": [1, 3]}, [IMAGE], {"opset": 9}),
    ("slice back", "Slice", {}, [IMAGE, i(-1, 5), i(-99, 1), i(1, 2), i(-1, -2)], {}),
    ("split 11", "Split", {"split": [1, 3], "axis": 1}, [IMAGE], {"opset": 11, "outputs": 2}),
    ("split 18", "Split", {"num_outputs": 3, "axis": 2}, [IMAGE], {"opset": 18, "outputs": 3}),
    ("dropout 9", "Dropout", {"ratio": 0.4}, [IMAGE], {"opset": 9}),
    ("batch norm 9", "BatchNormalization", {}, [IMAGE, f(4), f(4), f(4), np.abs(f(4))], {"opset": 9}),
    ("group norm 18", "GroupNormalization", {"num_groups": 2}, [IMAGE, f(2), f(2)], {"opset": 18}),
    ("group norm 21", "GroupNormalization", {"num_groups": 2}, [IMAGE, f(4), f(4)], {"opset": 21}),
    ("layer norm axis", "LayerNormalization", {"axis": 2}, [IMAGE, f(7, 6), f(7, 6)], {"outputs": 3}),
    ("layer norm broadcast", "LayerNormalization", {"axis": 1}, [IMAGE, f(6)], {}),
    ("instance norm", "InstanceNormalization", {"epsilon": 1e-3}, [IMAGE, f(4), f(4)], {}),
    ("lrn", "LRN", {"size": 3, "alpha": 0.01}, [IMAGE], {}),
    ("gelu tanh", "Gelu", {"approximate": "tanh"}, [IMAGE], {"opset": 20}),
    ("gelu", "Gelu", {}, [IMAGE], {"opset": 20}),
    ("mod", "Mod", {}, [i(-5, 5, 7), i(3, -3, 4)], {}),
    ("fmod", "Mod", {"fmod": 1}, [f(3), f(3)], {}),
    ("div", "Div", {}, [i(-7, 7), i(2, -2)], {}),
    ("pow", "Pow", {}, [np.abs(IMAGE), i(3)], {}),
    ("pow of integers", "Pow", {}, [i(2, 3), np.asarray([2.0, 3.0], np.float32)], {}),
    ("prelu", "PRelu", {}, [IMAGE, f(4, 1, 1)], {}),
    ("cast", "Cast", {"to": 7}, [4 * IMAGE], {}),
    ("conv same", "Conv", {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, [IMAGE, f(5, 4, 3, 2), f(5)], {}),
    ("conv same lower", "Conv", {"auto_pad": "SAME_LOWER"}, [IMAGE, f(5, 4, 2, 4)], {}),
    ("conv uneven", "Conv", {"pads": [1, 0, 2, 1], "dilations": [1, 2]}, [IMAGE, f(5, 4, 3, 2)], {}),
    ("conv groups", "Conv", {"group": 2, "pads": [1, 1, 1, 1]}, [IMAGE, f(6, 2, 3, 3), f(6)], {}),
    ("conv line", "Conv", {"pads": [1, 1]}, [f(2, 4, 9), f(5, 4, 3)], {}),
    ("conv volume", "Conv", {}, [f(1, 2, 4, 5, 6), f(3, 2, 2, 3, 2)], {}),
    ("transposed", "ConvTranspose", {"strides": [2, 3], "pads": [1, 0, 0, 1]}, [IMAGE, f(4, 3, 3, 2), f(3)], {}),
    ("transposed extra", "ConvTranspose", {"strides": [3, 2], "output_padding": [2, 1]}, [IMAGE, f(4, 3, 3, 3)], {}),
    ("transposed shape", "ConvTranspose", {"strides": [3, 2], "output_shape": [20, 12]}, [IMAGE, f(4, 3, 3, 3)], {}),
    ("transposed groups", "ConvTranspose", {"group": 2, "dilations": [2, 1]}, [IMAGE, f(4, 3, 3, 3), f(6)], {}),
    ("max pool", "MaxPool", {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1}, [WIDE], {}),
    ("max pool pads", "MaxPool", {"kernel_shape": [3, 3], "pads": [2, 0, 1, 1], "dilations": [2, 1]}, [WIDE], {}),
    ("max pool places", "MaxPool", {"kernel_shape": [3, 3], "pads": [1, 0, 0, 1], "strides": [2, 2]}, [IMAGE],
     {"outputs": 2}),
    ("max pool same", "MaxPool", {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_LOWER"}, [WIDE], {}),
    ("average pads", "AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, [WIDE], {}),
    ("average counted", "AveragePool", {"kernel_shape": [3, 3], "pads": [1, 0, 0, 1], "count_include_pad": 1}, [WIDE],
     {}),
    ("average up", "AveragePool", {"kernel_shape": [2, 3], "strides": [2, 2], "ceil_mode": 1}, [WIDE], {"opset": 19}),
    ("average dilated", "AveragePool", {"kernel_shape": [2, 3], "dilations": [2, 2]}, [WIDE], {"opset": 19}),
    ("lp pool", "LpPool", {"kernel_shape": [2, 3], "p": 3}, [WIDE], {"opset": 18}),
    ("upsample 9", "Upsample", {"mode": "linear"}, [IMAGE, np.asarray([1, 1, 2, 1.5], np.float32)], {"opset": 9,
     "constant": (1,)}),
    ("resize 10", "Resize", {"mode": "nearest"}, [IMAGE, np.asarray([1, 1, 2, 1.5], np.float32)], {"opset": 10}),
    *[(f"resize {mode} {place} {size}", "Resize", {"mode": mode, "coordinate_transformation_mode": place},
       [IMAGE, None, None, i(2, 4, *size)], {})
      for mode in ("nearest", "linear", "cubic")
      for place in ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")
      for size in ((11, 13), (4, 3), (1, 9))],
    *[(f"resize {rounding}", "Resize", {"mode": "nearest", "nearest_mode": rounding, "coordinate_transformation_mode":
       "asymmetric"}, [IMAGE, None, np.asarray([1, 1, 0.7, 1.6], np.float32)], {})
      for rounding in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")],
    ("resize cubic within", "Resize", {"mode": "cubic", "exclude_outside": 1, "cubic_coeff_a": -0.5},
     [IMAGE, None, None, i(2, 4, 9, 4)], {}),
    ("resize cropped", "Resize", {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize",
     "extrapolation_value": 2.0}, [IMAGE, np.asarray([0, 0, 0.2, -0.1, 1, 1, 0.9, 1.2], np.float32), None,
     i(2, 4, 5, 5)], {}),
    ("resize aspect", "Resize", {"mode": "linear", "keep_aspect_ratio_policy": "not_larger", "axes": [2, 3]},
     [IMAGE, None, None, i(10, 11)], {"opset": 18}),
    *[(f"grid {mode} {beside}", "GridSample", {"mode": mode, "padding_mode": beside, "align_corners": 1},
       [IMAGE, 1.3 * np.tanh(f(2, 3, 5, 2))], {"opset": 16})
      for mode in ("bilinear", "nearest", "bicubic") for beside in ("zeros", "border", "reflection")],
    ("roi align", "RoiAlign", {"output_height": 3, "output_width": 2, "sampling_ratio": 2, "spatial_scale": 0.5},
     [IMAGE, np.asarray([[0, 0, 9, 9], [2, 3, 12, 8]], np.float32), i(0, 1)], {}),
    ("roi align 10", "RoiAlign", {"output_height": 2, "output_width": 2},
     [IMAGE, np.asarray([[0, 0, 3, 3], [1, 2, 5, 6]], np.float32), i(0, 1)], {"opset": 10}),
    ("lstm", "LSTM", BOTH, LSTM, {"outputs": 3}),
    ("lstm one way", "LSTM", {"hidden_size": 6}, [LSTM[0], *(t[:1] for t in LSTM[1:])], {"outputs": 3}),
    ("lstm bare", "LSTM", {"hidden_size": 6, "direction": "reverse"}, [LSTM[0], *(t[:1] for t in LSTM[1:3])],
     {"outputs": 3}),
    ("lstm lengths", "LSTM", BOTH, [*LSTM, LENGTHS, f(2, 3, 6), f(2, 3, 6)], {"outputs": 3}),
    ("lstm peepholes", "LSTM", {**BOTH, "clip": 0.5}, [*LSTM, None, None, None, f(2, 18)], {"outputs": 3}),
    ("lstm coupled", "LSTM", {**BOTH, "input_forget": 1}, LSTM, {"outputs": 3}),
    ("lstm other", "LSTM", {**BOTH, "activations": ["HardSigmoid", "Softsign", "Relu", "Sigmoid", "LeakyRelu", "Tanh"],
     "activation_alpha": [0.3, 0.1], "activation_beta": [0.4]}, LSTM, {"outputs": 3}),
    ("gru", "GRU", {**BOTH, "linear_before_reset": 1}, GRU, {"outputs": 2}),
    ("gru before", "GRU", BOTH, GRU, {"outputs": 2}),
    ("gru lengths", "GRU", {**BOTH, "linear_before_reset": 1}, [*GRU, LENGTHS, f(2, 3, 6)], {"outputs": 2}),
    ("rnn", "RNN", BOTH, RNN, {"outputs": 2}),
    ("rnn relu", "RNN", {**BOTH, "activations": ["Relu", "Relu"]}, [*RNN, LENGTHS, f(2, 3, 6)], {"outputs": 2}),
    ("einsum", "Einsum", {"equation": "...ij, jk -> ...ik"}, [IMAGE, f(6, 3)], {}),
    ("gemm", "Gemm", {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}, [f(4, 3), f(5, 4), f(3, 1)], {}),
    ("gather scalar", "Gather", {"axis": 2}, [IMAGE, np.asarray(-1)], {}),
    ("gather nd", "GatherND", {"batch_dims": 1}, [IMAGE, np.asarray([[[1, -1]], [[3, 0]]])], {}),
    ("scatter nd", "ScatterND", {"reduction": "mul"}, [IMAGE, np.asarray([[0, 1], [1, -1]]), f(2, 7, 6)], {}),
    ("top k 9", "TopK", {"k": 3, "axis": 2}, [IMAGE], {"opset": 9, "outputs": 2}),
    ("top k", "TopK", {"largest": 0}, [np.round(IMAGE), i(4)], {"outputs": 2}),
    ("one hot", "OneHot", {"axis": 1},
     [np.asarray([[1, -1], [7, 0]]), np.asarray(4), np.asarray([-1, 2], np.float32)], {}),
    ("range", "Range", {}, [np.float32(1), np.float32(2), np.float32(0.3)], {}),
    ("quantize", "QuantizeLinear", {"axis": 1}, [3 * IMAGE, np.abs(f(4)), np.zeros(4, np.int8)], {}),
    ("dequantize", "DequantizeLinear", {"axis": 0}, [np.arange(12, dtype=np.int8).reshape(3, 4), np.abs(f(3))], {}),
    ("boxes", "NonMaxSuppression", {}, [np.abs(f(2, 60, 4)), f(2, 3, 60), i(20), np.asarray([0.3], np.float32),
     np.asarray([0.1], np.float32)], {}),
    ("boxes by centre", "NonMaxSuppression", {"center_point_box": 1}, [3 * np.abs(f(1, 60, 4)), f(1, 1, 60), i(50),
     np.asarray([0.2], np.float32)], {}),
    ("clip of tensors", "Clip", {}, [i(-3, 0, 9), np.asarray(-1), np.asarray(4)], {}),
    ("depth to space", "DepthToSpace", {"blocksize": 2, "mode": "CRD"}, [IMAGE], {}),
    ("lp norm", "LpNormalization", {"p": 1, "axis": 1}, [IMAGE], {}),
]  # fmt: skip


@pytest.mark.parametrize(("op", "attributes", "inputs", "options"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_an_operator_is_what_onnx_runtime_computes(
    op: str, attributes: dict[str, Any], inputs: list[Any], options: dict[str, Any]
) -> None:
    proto, feed = node_model(op, attributes, inputs, **options)
    found = results(graph_of(proto), {name: fed(value) for name, value in feed.items()})
    for a, b in zip(by_runtime(proto, feed), found, strict=True):
        assert gap(a, b) < 1e-5


REFUSED: list[tuple[str, str, dict[str, Any], list[Any], str]] = [
    ("training", "BatchNormalization", {"training_mode": 1}, [IMAGE, f(4), f(4), f(4), f(4)], "statistics"),
    ("columns first", "MaxPool", {"kernel_shape": [2, 2], "storage_order": 1}, [IMAGE], "column-major"),
    ("largest of a region", "RoiAlign", {"mode": "max"}, [IMAGE, f(1, 4), i(0)], "mode max"),
    ("images of four axes", "Conv", {}, [f(1, 2, 3, 3, 3, 3), f(2, 2, 1, 1, 1, 1)], "4 axes"),
    ("a fraction", "Resize", {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
     [IMAGE, None, np.asarray([1, 1, 0.6, 0.6], np.float32)], "whole number"),
]  # fmt: skip


@pytest.mark.parametrize(("op", "attributes", "inputs", "said"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED])
def test_a_use_without_a_function_is_refused_in_words(
    op: str, attributes: dict[str, Any], inputs: list[Any], said: str
) -> None:
    proto, feed = node_model(op, attributes, inputs, outputs=2 if op == "MaxPool" else 1, constant=[0])
    graph = graph_of(proto)
    # A weight is trained here: the reference implementation may not stand in.
    with pytest.raises(NoFunction, match=said) as raised:
        graph({name: fed(value) for name, value in feed.items()})
    assert op in str(raised.value)


@pytest.mark.parametrize(
    ("op", "attributes", "inputs"),
    [
        ("Conv", {"auto_pad": "SAME_UPPER", "strides": [2, 2], "group": 2}, [IMAGE, f(6, 2, 3, 3), f(6)]),
        ("ConvTranspose", {"strides": [3, 2], "output_shape": [20, 12]}, [IMAGE, f(4, 3, 3, 3), f(3)]),
        ("LSTM", BOTH, LSTM),
        ("LSTM", BOTH, [*LSTM, LENGTHS, f(2, 3, 6), f(2, 3, 6), f(2, 18)]),
        ("GRU", BOTH, GRU),
        ("RNN", BOTH, RNN),
        ("Resize", {"mode": "cubic"}, [IMAGE, None, None, i(2, 4, 9, 4)]),
        ("GroupNormalization", {"num_groups": 2}, [IMAGE, f(4), f(4)]),
        ("LayerNormalization", {"axis": 1}, [IMAGE, f(6), f(6)]),
        ("AveragePool", {"kernel_shape": [2, 3], "strides": [2, 2], "ceil_mode": 1}, [WIDE]),
        ("Einsum", {"equation": "bij,jk->bik"}, [f(2, 3, 4), f(4, 5)]),
        ("ScatterElements", {"reduction": "add"}, [f(3, 4), np.asarray([[0, 1, 2, 0]]), f(1, 4)]),
        ("LRN", {"size": 3}, [IMAGE]),
        ("Pow", {}, [np.abs(IMAGE) + 0.1, np.abs(f(6))]),
        ("PRelu", {}, [IMAGE, f(4, 1, 1)]),
        ("Attention", {}, [f(1, 2, 3, 4), f(1, 2, 5, 4), f(1, 2, 5, 4), f(3, 5)]),
        ("Attention", {"softcap": 2.0, "is_causal": 1}, [f(1, 2, 3, 4), f(1, 2, 3, 4), f(1, 2, 3, 4)]),
        ("RMSNormalization", {}, [f(2, 3, 4), f(4)]),
        ("GridSample", {}, [IMAGE, 0.9 * np.tanh(f(2, 3, 5, 2))]),
        ("DeformConv", {"pads": [1, 1, 1, 1]}, [IMAGE, f(3, 4, 3, 3), 0.3 * f(2, 18, 7, 6)]),
        ("GatherND", {"batch_dims": 1}, [IMAGE, np.asarray([[[1, -1]], [[3, 0]]])]),
        ("TopK", {}, [IMAGE, i(3)]),
        ("CumSum", {"exclusive": 1, "reverse": 1}, [IMAGE, np.asarray(2)]),
        ("ReduceLogSumExp", {}, [IMAGE, i(1, 3)]),
    ],
)
def test_gradients_are_those_of_finite_differences(op: str, attributes: dict[str, Any], inputs: list[Any]) -> None:
    live = [n for n, value in enumerate(inputs) if value is not None and value.dtype == np.float32]
    values = [v.astype(np.float64) if n in live else v for n, v in enumerate(inputs)]
    proto, _ = node_model(op, attributes, values, opset=23)
    graph = graph_of(proto)

    def function(*tensors: Any) -> Any:
        feed = {f"i{n}": fed(value) for n, value in enumerate(values) if value is not None}
        feed.update({f"i{n}": tensor for n, tensor in zip(live, tensors, strict=True)})
        return graph(feed)["o0"]

    tensors = [torch.from_numpy(values[n]).requires_grad_() for n in live]
    assert torch.autograd.gradcheck(function, tensors, fast_mode=True)


@pytest.mark.parametrize(
    ("op", "attributes"),
    [("ReduceL2", {"axes": [1]}), ("LpNormalization", {}), ("GlobalLpPool", {}), ("LpPool", {"kernel_shape": [2, 2]}),
     ("MeanVarianceNormalization", {})],
)  # fmt: skip
def test_norms_of_zeros_have_a_finite_gradient(op: str, attributes: dict[str, Any]) -> None:
    proto, _ = node_model(op, attributes, [np.zeros((2, 3, 4, 4), np.float32)])
    x = torch.zeros(2, 3, 4, 4, requires_grad=True)
    graph_of(proto)({"i0": x})["o0"].sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
