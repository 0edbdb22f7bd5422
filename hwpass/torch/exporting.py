"""A torch module as an ONNX model, and torch tensors as the arrays that it is fed."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
import onnx

from hwpass.errors import InputError, UsageError, one_line

#: What the exporter needs.
NEEDED = ("torch", "onnxscript")


def exported(
    module: Any,
    example_inputs: Any,
    *,
    dynamic_shapes: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> onnx.ModelProto:
    """The graph of a `torch.nn.Module` in evaluation mode, traced on example inputs: a tensor, or a tuple of them.

    `dynamic_shapes` and the names are those of `torch.onnx.export`. The module is left as it was, training mode
    included. Raises UsageError where torch or onnxscript is missing or the module is none, InputError where the
    exporter refuses it.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UsageError(f"export: {' and '.join(missing)} is not installed; pip install 'hwpass[torch]'")
    import torch

    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"export: a {type(module).__name__} is no torch.nn.Module; give the module itself")
    arguments = tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,)
    names = {"input_names": input_names, "output_names": output_names}
    given = {name: list(value) for name, value in names.items() if value is not None}
    with _evaluating(module), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, about its own code
        try:
            program = torch.onnx.export(
                module, arguments, dynamo=True, dynamic_shapes=dynamic_shapes, verbose=False, **given
            )
        except Exception as error:  # whatever tracing a module of somebody else's raises
            raise InputError(
                f"export: torch cannot export {type(module).__name__}: {one_line(str(error)[:300])}; see"
                " torch.onnx.export"
            ) from error
    proto: onnx.ModelProto = program.model_proto
    return proto


@contextmanager
def _evaluating(module: Any) -> Iterator[None]:
    """Every part of a module in evaluation mode, and then in the mode that it had."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def as_arrays(data: Any, names: Sequence[str]) -> Any:
    """Calibration data with NumPy arrays in place of tensors, [samples, ...] each.

    Takes a tensor or an array for the first input, a mapping by name, or batches of these (as a DataLoader gives), each
    also a tuple of the inputs in order; what stands behind the inputs, such as labels, is left out. Anything else, such
    as a path, is handed on.
    """
    if data is None or isinstance(data, (str, bytes)) or hasattr(data, "__fspath__"):
        return data
    if _is_array(data) or isinstance(data, Mapping):
        return _feed(data, names)
    if isinstance(data, Iterable):
        return (_feed(batch, names) for batch in data)
    return data


def _feed(batch: Any, names: Sequence[str]) -> Any:
    """One batch by name."""
    if isinstance(batch, Mapping):
        return {str(name): _array(value) for name, value in batch.items()}
    if _is_array(batch):
        return {names[0]: _array(batch)}
    if isinstance(batch, (tuple, list)) and len(batch) >= len(names):
        return {name: _array(value) for name, value in zip(names, batch, strict=False)}
    return batch


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or hasattr(value, "detach")


def _array(value: Any) -> Any:
    return value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)
