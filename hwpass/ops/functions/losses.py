"""Losses over classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_graphsurgeon as gs

from hwpass.ops.functions.common import F, given, text, torch


def _loss(node: gs.Node, logs: Any, labels: Any, weight: Any) -> Any:
    ignored = int(node.attrs.get("ignore_index", -100))
    return F.nll_loss(logs, labels.long(), weight, ignore_index=ignored, reduction=text(node, "reduction", "mean"))


def negative_log_likelihood(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The negative logarithm of the probability of the label."""
    return [_loss(node, inputs[0], inputs[1], given(inputs, 2))]


def softmax_cross_entropy(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The cross entropy of scores with labels, and the logarithms of the probabilities."""
    logs = torch.log_softmax(inputs[0], 1)
    return [_loss(node, logs, inputs[1], given(inputs, 2)), logs][: len(node.outputs)]
