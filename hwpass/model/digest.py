"""A digest of what a model computes: its operators, how they are wired, and every weight."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from hwpass.model.model import Model


def content_digest(model: Model) -> str:
    """SHA-256 in hexadecimal, the same for a model and for what is loaded from its file.

    Metadata, shapes of inner tensors and names of nodes do not count.
    """
    found = hashlib.sha256()

    def say(*parts: object) -> None:
        found.update(("\x1f".join(map(str, parts)) + "\x1e").encode())

    say("opset", model.opset)
    for side in (model.graph.inputs, model.graph.outputs):
        say(*[tensor.name for tensor in side])
    for node in model.walk():
        say(node.op, node.domain if node.domain not in ("", "ai.onnx") else None)
        say(*[tensor.name for tensor in node.inputs])
        say(*[tensor.name for tensor in node.outputs])
        for name, value in sorted(node.attrs.items()):
            say(name, _text(value))
    for name, tensor in sorted(model.constants().items()):
        values = np.asarray(tensor.values)
        say(name, values.dtype, values.shape)
        if values.dtype == object:
            say(*values.reshape(-1).tolist())
        else:
            found.update(np.asarray(values, order="C").reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def _text(value: Any) -> str:
    if isinstance(value, gs.Graph):  # its nodes are walked by themselves
        return f"body {[t.name for t in value.inputs]} {[t.name for t in value.outputs]}"
    if isinstance(value, gs.Constant | np.ndarray):
        array = np.asarray(value.values if isinstance(value, gs.Constant) else value)
        return f"{array.dtype} {array.shape} {array.tobytes().hex()}"
    if isinstance(value, float | np.floating):
        return repr(float(np.float32(value)))
    if isinstance(value, list | tuple):
        return ",".join(map(_text, value))
    return str(value)
