"""What the functions share: torch, imported when it is first used, attributes, types, and the refusal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from hwpass.errors import InputError, UsageError

#: The outputs of a node from its inputs (torch tensors, None for absent ones) and the standard's operator set.
Function = Callable[[gs.Node, list[Any], int], Sequence[Any]]


class NoFunction(InputError):
    """An operator, or this use of it, has no torch function; the message names the operator and what is missing."""

    def __init__(self, node: gs.Node, lacks: str = "") -> None:
        domain = f"{node.domain}." if node.domain and node.domain != "ai.onnx" else ""
        name = f" (node {node.name})" if node.name else ""
        super().__init__(f"{domain}{node.op} has no torch function{f' for {lacks}' if lacks else ''}{name}")


class _Late:
    """A module that is imported when something of it is first asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        import importlib

        if name.startswith("__"):
            raise AttributeError(name)  # whoever looks through modules does not mean torch
        try:
            found = getattr(importlib.import_module(self._name), name)
        except ModuleNotFoundError:
            raise UsageError("torch is not installed: pip install 'hwpass[torch]'") from None
        setattr(self, name, found)
        return found


torch: Any = _Late("torch")
F: Any = _Late("torch.nn.functional")


def given(inputs: Sequence[Any], position: int) -> Any:
    """An input, None where it is absent."""
    return inputs[position] if position < len(inputs) else None


def integers(value: Any) -> list[int]:
    """The elements of a tensor, an array or a list as integers."""
    found = value.reshape(-1).tolist() if hasattr(value, "reshape") else value
    return [int(v) for v in found]


def operand(node: gs.Node, inputs: Sequence[Any], position: int, name: str) -> list[int] | None:
    """Integers that newer operator sets take from an input and older ones from an attribute; None for neither."""
    value = given(inputs, position)
    if value is not None:
        return integers(value)
    return integers(node.attrs[name]) if name in node.attrs else None


def text(node: gs.Node, name: str, default: str) -> str:
    """An attribute that is a word."""
    value = node.attrs.get(name, default)
    return value.decode() if isinstance(value, bytes) else str(value)


def torch_type(node: gs.Node, dtype: Any) -> Any:
    """The torch type of a NumPy type or of a code of `onnx.TensorProto`. Raises NoFunction where torch has none."""
    if isinstance(dtype, int):
        from onnx import helper

        dtype = helper.tensor_dtype_to_np_dtype(dtype)
    name = np.dtype(dtype).name
    found = getattr(torch, name, None) if _plain(name) else None
    if found is None or not isinstance(found, torch.dtype):
        raise NoFunction(node, f"the type {name}")
    return found


def _plain(name: str) -> bool:
    """Whether torch computes with a type of this name: neither text nor numbers of less than eight bits."""
    return not name.startswith(("str", "object", "float4_", "float6_", "float8_", "int4", "uint4", "int2", "uint2"))


def tensor_of(values: np.ndarray[Any, Any]) -> Any:
    """A torch tensor with a copy of an array's values; the array itself where torch does not compute with its type.

    >>> type(tensor_of(np.asarray(["text"], object))).__name__
    'ndarray'
    """
    if not _plain(values.dtype.name):
        return values
    if values.dtype.name == "bfloat16":
        return torch.from_numpy(np.array(values).view(np.int16)).view(torch.bfloat16)
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    return torch.from_numpy(np.array(values, order="C"))


def array_of(tensor: Any) -> np.ndarray[Any, Any]:
    """A NumPy array of a torch tensor's values; an array is as it is."""
    if isinstance(tensor, np.ndarray):
        return tensor
    found = tensor.detach().cpu()
    if found.dtype == torch.bfloat16:
        import ml_dtypes

        return np.asarray(found.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16))
    return np.asarray(found.numpy())


def attribute_tensor(value: Any) -> Any:
    """The tensor of an attribute that holds a constant."""
    return tensor_of(np.asarray(value.values))


def flows(*tensors: Any) -> bool:
    """Whether a gradient flows through one of these tensors."""
    return bool(torch.is_grad_enabled()) and any(t is not None and t.requires_grad for t in tensors)


def straight_through(exact: Any, smooth: Any) -> Any:
    """The value of `exact` with the gradient of `smooth`."""
    return smooth + (exact - smooth).detach()


def spread(values: Any, axis: int, rank: int) -> Any:
    """A vector along one axis of a tensor of `rank` axes; anything of one element as it is."""
    if values.numel() == 1:
        return values.reshape(())
    return values.reshape([-1 if i == axis else 1 for i in range(rank)])


def root(x: Any, p: float) -> Any:
    """The p-th root of what is not negative, with a gradient of zero at zero: there its true one is infinite."""
    zero = x == 0
    return torch.where(zero, torch.zeros_like(x), torch.where(zero, torch.ones_like(x), x) ** (1 / p))
