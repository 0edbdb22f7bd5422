"""What passes ask of a model and a run, and what they leave: named conditions that the manager checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hwpass.errors import option

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from hwpass.context import Context
    from hwpass.model.model import Model


@dataclass(frozen=True)
class Condition:
    """Something that a pass `requires` or `ensures`.

    `missing` gives why it does not hold of a model in a run, None where it does; "{name}" in its text stands for the
    pass. It looks, and changes nothing.
    """

    name: str
    summary: str
    missing: Callable[[Model, Context], str | None] = field(repr=False, compare=False)

    def __str__(self) -> str:
        return self.name


def _no_target(model: Model, context: Context) -> str | None:
    return None if context.target is not None else "{name} needs a target; see `hwpass targets`"


def _no_original(model: Model, context: Context) -> str | None:
    return None if context.original is not None else "{name} needs the original model in the context"


def _no_data(model: Model, context: Context) -> str | None:
    given = option("calib")
    return None if context.calibration is not None else f"{{name}} needs samples of inputs: give some by {given}"


def _not_pruned(model: Model, context: Context) -> str | None:
    return None if context.findings.last is not None else "{name} goes after prune-channels in a pipeline"


def _norm_behind_conv(model: Model, context: Context) -> str | None:
    """A batch normalisation by constants that alone reads a convolution with constant weights."""
    from onnx_graphsurgeon import Constant

    outputs = {id(t) for t in model.graph.outputs}
    for norm in model.graph.nodes:
        made = norm.inputs[0].inputs if norm.op == "BatchNormalization" and not norm.domain else []
        if len(made) != 1 or made[0].op != "Conv" or len(norm.outputs) != 1 or len(norm.inputs) != 5:
            continue
        constant = all(isinstance(t, Constant) for t in (*norm.inputs[1:], *made[0].inputs[1:]))
        alone = len(norm.inputs[0].outputs) == 1 and id(norm.inputs[0]) not in outputs
        training = norm.attrs.get("training_mode", 0) or "is_test" in norm.attrs or not norm.attrs.get("spatial", 1)
        fitting = constant and all(tuple(t.shape) == tuple(made[0].inputs[1].shape[:1]) for t in norm.inputs[1:])
        if fitting and alone and not training and _finite_together(made[0], norm):
            return f"BatchNormalization {norm.name or norm.outputs[0].name} alone reads a Conv"
    return None


def _finite_together(conv: gs.Node, norm: gs.Node) -> bool:
    """Whether one convolution can stand for both: its numbers would be finite in the weight's type."""
    import numpy as np

    weight, *own = (t.values.astype(np.float64) for t in conv.inputs[1:])
    scale, shift, mean, variance = (t.values.astype(np.float64) for t in norm.inputs[1:])
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + float(norm.attrs.get("epsilon", 1e-5)))
        bias = (sum(own) - mean) * factor + shift
        most = np.abs(weight).reshape(len(weight), -1).max(axis=1, initial=0.0) * np.abs(factor)
        numbers = np.concatenate([most, np.abs(bias)]).astype(conv.inputs[1].dtype)
    return bool(np.isfinite(numbers).all())


def _norm_of_our_own(model: Model, context: Context) -> str | None:
    """A norm that a pass of the run left in a form that is no standard operator."""
    last = context.findings.last
    now = last.surgery.renamed if last is not None else {}
    ours = {now.get(name, name) for name in context.findings.centred_norms}
    for node in model.graph.nodes:
        if node.op == "SimplifiedLayerNormalization" and node.outputs[0].name in ours:
            name = node.name or node.outputs[0].name
            return f"{node.op} {name} is no standard operator; put lower-norms before {{name}}"
    return None


TARGET = Condition("target", "a target is given", _no_target)
ORIGINAL = Condition("original", "the original model is in the context", _no_original)
DATA = Condition("data", "calibration data is given", _no_data)
PRUNED = Condition("pruned", "channels were pruned before", _not_pruned)
NO_NORM_BEHIND_CONV = Condition(
    "no-norm-behind-conv", "no batch normalisation alone reads a convolution", _norm_behind_conv
)
STANDARD_NORMS = Condition("standard-norms", "norms that passes left are standard operators", _norm_of_our_own)
