"""Entry by entry: activations, arithmetic with broadcasting, comparisons, casts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import onnx_graphsurgeon as gs

from hwpass.ops.functions.common import F, Function, NoFunction, given, text, torch, torch_type

Unary = Callable[[gs.Node, Any], Any]


def _number(node: gs.Node, name: str, default: float) -> float:
    return float(node.attrs.get(name, default))


def _selu(node: gs.Node, x: Any) -> Any:
    alpha, gamma = _number(node, "alpha", 1.67326319217681884765625), _number(node, "gamma", 1.05070102214813232421875)
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0)))


def _gelu(node: gs.Node, x: Any) -> Any:
    return F.gelu(x, approximate=text(node, "approximate", "none"))


def _shrink(node: gs.Node, x: Any) -> Any:
    lambd, bias = _number(node, "lambd", 0.5), _number(node, "bias", 0.0)
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, torch.zeros_like(x)))


def _infinite(node: gs.Node, x: Any) -> Any:
    positive, negative = node.attrs.get("detect_positive", 1), node.attrs.get("detect_negative", 1)
    found = torch.zeros_like(x, dtype=torch.bool)
    if positive:
        found = found | torch.isposinf(x)
    if negative:
        found = found | torch.isneginf(x)
    return found


def quick_gelu(node: gs.Node, x: Any) -> Any:
    """x sigmoid(alpha x)."""
    return x * torch.sigmoid(_number(node, "alpha", 1.702) * x)


def _plain(name: str) -> Unary:
    return lambda node, x: getattr(torch, name)(x)


_UNARY: dict[str, Unary] = {
    **{op: _plain(op.lower()) for op in
       "Relu Sin Cos Tan Sinh Cosh Asin Acos Atan Asinh Acosh Atanh Tanh Sigmoid Exp Log Sqrt Abs Erf Floor Ceil Round "
       "Sign Reciprocal IsNaN".split()},
    "Neg": _plain("neg"),
    "Not": _plain("logical_not"),
    "BitwiseNot": _plain("bitwise_not"),
    "LeakyRelu": lambda node, x: F.leaky_relu(x, _number(node, "alpha", 0.01)),
    "Elu": lambda node, x: F.elu(x, _number(node, "alpha", 1.0)),
    "Selu": _selu,
    "Celu": lambda node, x: F.celu(x, _number(node, "alpha", 1.0)),
    "ThresholdedRelu": lambda node, x: torch.where(x > _number(node, "alpha", 1.0), x, torch.zeros_like(x)),
    "HardSigmoid": lambda node, x: (_number(node, "alpha", 0.2) * x + _number(node, "beta", 0.5)).clamp(0, 1),
    "HardSwish": lambda node, x: x * (x / 6 + 0.5).clamp(0, 1),
    "Gelu": _gelu,
    "QuickGelu": quick_gelu,
    "Mish": lambda node, x: x * torch.tanh(F.softplus(x)),
    "Swish": lambda node, x: x * torch.sigmoid(_number(node, "alpha", 1.0) * x),
    "Softplus": lambda node, x: F.softplus(x),
    "Softsign": lambda node, x: x / (1 + x.abs()),
    "Shrink": _shrink,
    "IsInf": _infinite,
}  # fmt: skip


def unary(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """f(x) by the name of the operator."""
    return [_UNARY[node.op](node, inputs[0])]


UNARY: dict[str, Function] = dict.fromkeys(_UNARY, unary)


def clip(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """min(max(x, low), high); the bounds are attributes below operator set 11."""
    x, bounds = inputs[0], [given(inputs, 1), given(inputs, 2)]
    if any(bound is not None and bound.requires_grad for bound in bounds):
        return [torch.clamp(x, *(None if bound is None else bound.reshape(()) for bound in bounds))]
    # Numbers are several times as fast as tensors.
    low, high = (
        node.attrs.get(name) if bound is None else bound.item()
        for name, bound in zip(("min", "max"), bounds, strict=True)
    )
    return [x if low is None and high is None else torch.clamp(x, low, high)]


def prelu(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """x where it is not negative, slope * x elsewhere."""
    x, slope = inputs
    if opset < 7 and slope.dim() == 1 and slope.numel() > 1:
        slope = slope.reshape(-1, *[1] * (x.dim() - 2))
    return [torch.where(x < 0, slope * x, x)]


def _divide(a: Any, b: Any) -> Any:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _power(a: Any, b: Any) -> Any:
    if b.numel() == 1 and not b.requires_grad:
        # A number: x ** 2 needs no logarithm, and its gradient is finite for every x.
        power = b.reshape(()).item()
        found = a**power if a.is_floating_point() or power >= 0 else torch.pow(a.double(), power)
        if b.dim() > a.dim():
            found = found.reshape([1] * (b.dim() - a.dim()) + list(a.shape))
        return found.to(a.dtype)
    return torch.pow(a, b).to(a.dtype)


_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": lambda a, b: a + b if a.dtype != torch.bool else a | b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": _divide,
    "Pow": _power,
    "Max": lambda a, b: torch.maximum(a, b),
    "Min": lambda a, b: torch.minimum(a, b),
    "Sum": lambda a, b: a + b,
    "And": lambda a, b: torch.logical_and(a, b),
    "Or": lambda a, b: torch.logical_or(a, b),
    "Xor": lambda a, b: torch.logical_xor(a, b),
    "BitwiseAnd": lambda a, b: torch.bitwise_and(a, b),
    "BitwiseOr": lambda a, b: torch.bitwise_or(a, b),
    "BitwiseXor": lambda a, b: torch.bitwise_xor(a, b),
    "Equal": lambda a, b: torch.eq(a, b),
    "Less": lambda a, b: torch.lt(a, b),
    "Greater": lambda a, b: torch.gt(a, b),
    "LessOrEqual": lambda a, b: torch.le(a, b),
    "GreaterOrEqual": lambda a, b: torch.ge(a, b),
}


def nary(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Arithmetic and comparisons by the name of the operator, over two inputs or more."""
    if opset < 7 and node.attrs.get("broadcast", 0) and "axis" in node.attrs:
        a, b = inputs
        axis = int(node.attrs["axis"]) % a.dim()
        inputs = [a, b.reshape(list(b.shape) + [1] * (a.dim() - axis - b.dim()))]
    return [reduce(_BINARY[node.op], inputs)]


NARY: dict[str, Function] = dict.fromkeys(_BINARY, nary)


def mean(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The mean of several tensors."""
    return [sum(inputs[1:], inputs[0]) / len(inputs)]


def modulo(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The remainder, of the sign of the divisor, or with `fmod` of the dividend."""
    a, b = inputs
    return [torch.fmod(a, b) if node.attrs.get("fmod", 0) else torch.remainder(a, b)]


def bit_shift(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """x shifted by y bits. Torch's shifts to the right keep the sign, which unsigned types lack."""
    a, b = inputs
    left = text(node, "direction", "") == "LEFT"
    return [torch.bitwise_left_shift(a, b) if left else torch.bitwise_right_shift(a, b)]


def where(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """One of two tensors, entry by entry."""
    return [torch.where(inputs[0], inputs[1], inputs[2])]


def cast(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The input in another type, that of the attribute `to` or of the second input."""
    x = inputs[0]
    target = inputs[1].dtype if node.op == "CastLike" else torch_type(node, node.attrs["to"])
    if x.is_floating_point() and target in (torch.uint8, torch.int8, torch.uint16, torch.int16):
        # Out of their range the result of a direct cast is up to the processor.
        return [x.to(torch.int32).to(target)]
    return [x.to(target)]


def bit_cast(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The bits of the input, seen as another type of the same size."""
    target = torch_type(node, node.attrs["to"])
    if target.itemsize != inputs[0].dtype.itemsize:
        raise NoFunction(node, "types of different sizes")
    return [inputs[0].contiguous().view(target)]


def identity(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The input as it is."""
    return [inputs[0]]


def dropout(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The input as it is, and a mask of what is kept: everything."""
    ratio, training = given(inputs, 1), given(inputs, 2)
    drops = ratio is None or bool(ratio.item())
    if training is not None and bool(training.item()) and drops:
        raise NoFunction(node, "training, which draws random numbers")
    x = inputs[0]
    mask = torch.ones_like(x, dtype=torch.bool if opset >= 10 else x.dtype)
    return [x, mask][: len(node.outputs)]


def activated(node: gs.Node, x: Any) -> Any:
    """The activation that a fused operator ends with, by the attributes `activation` and its parameters."""
    name = text(node, "activation", "")
    if not name:
        return x
    values = [float(v) for v in node.attrs.get("activation_params") or []]
    values = values or [float(node.attrs[k]) for k in ("activation_alpha", "activation_beta") if k in node.attrs]
    if name == "Clip":
        low, high = values if len(values) == 2 else (-math.inf, math.inf)
        return x.clamp(low, high)
    if name == "LeakyRelu":
        return F.leaky_relu(x, values[0] if values else 0.01)
    if name == "HardSigmoid":
        alpha, beta = values if len(values) == 2 else (0.2, 0.5)
        return (alpha * x + beta).clamp(0, 1)
    if name not in ("Relu", "Tanh", "Sigmoid", "HardSwish", "Softplus"):
        raise NoFunction(node, f"the activation {name}")
    return _UNARY[name](node, x)


def bias_gelu(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """gelu(x + b), approximated by tanh in FastGelu."""
    x = inputs[0] if given(inputs, 1) is None else inputs[0] + inputs[1]
    return [F.gelu(x, approximate="tanh" if node.op == "FastGelu" else "none")]


def bias_add(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The sum of all inputs."""
    return [sum(inputs[1:], inputs[0])]


def swiglu(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """swish(a) b, where gate and value come as two tensors."""
    if given(inputs, 1) is None or set(node.attrs) - {"alpha"}:
        raise NoFunction(node, "this form of it")
    a, b = inputs[:2]
    return [a * torch.sigmoid(_number(node, "alpha", 1.0) * a) * b]
