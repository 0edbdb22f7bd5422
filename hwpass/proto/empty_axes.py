"""Axes of extent 0: how some exporters write that an input takes a batch of any size."""

from __future__ import annotations

import onnx
import onnxruntime as ort


def has_empty_axes(model: onnx.ModelProto) -> bool:
    """Whether an input is declared with an extent of 0."""
    return any(0 in _sizes(value) for value in model.graph.input)


def runs_empty(session: ort.InferenceSession) -> bool:
    """Whether a session takes an extent of 0 literally."""
    return any(0 in (value.shape or ()) for value in session.get_inputs())


def free_empty_axes(model: onnx.ModelProto) -> None:
    """Make axes of extent 0 dynamic in what inputs, outputs and recorded shapes of the main graph are declared as.

    ONNX Runtime takes the 0 literally, and would run on nothing but empty arrays.
    """
    graph = model.graph
    if has_empty_axes(model):
        for value in (*graph.input, *graph.output, *graph.value_info):
            for dim in value.type.tensor_type.shape.dim:
                if dim.HasField("dim_value") and dim.dim_value == 0:
                    dim.Clear()


def _sizes(value: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim if dim.HasField("dim_value")]
