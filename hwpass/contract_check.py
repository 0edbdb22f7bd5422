"""Passes held to what they declare, see `hwpass.contract`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from hwpass.errors import ProofError, UsageError

if TYPE_CHECKING:
    from hwpass.context import Context
    from hwpass.instrument import Step
    from hwpass.model.model import Model


class Made(Protocol):
    """What a pass gives, see `hwpass.manager.PassResult`."""

    @property
    def model(self) -> Model:
        """The model."""

    @property
    def modified(self) -> bool:
        """Whether it is another than before."""


class Contract:
    """One run of a pass, held to what the pass declares.

    `given` is the model to run it on: a copy, but for a pass that declares to leave that as it is. `mark` tells the
    model before from others. Raises UsageError where a condition that it requires does not hold.
    """

    def __init__(self, step: Step, before: Model, context: Context, check: bool) -> None:
        from hwpass.model.fingerprint import Fingerprint

        for condition in step.requires:
            why = condition.missing(before, context)
            if why is not None:
                raise UsageError(why.replace("{name}", step.name))
        self.step, self.before, self.context, self.check = step, before, context, check
        self.mark = Fingerprint(before)
        self.given = before if step.in_place is False else before.copy()

    def kept(self, result: Made) -> None:
        """Check how a pass gave its model, and that the graph could be saved. Raises ProofError."""
        from hwpass.model.fingerprint import Fingerprint

        name, model = self.step.name, result.model
        if self.step.in_place is False and Fingerprint(self.before) != self.mark:
            raise ProofError(f"pass {name} edited the model that it was given; it declares in_place = False")
        if not result.modified:
            return
        if self.step.in_place is False and model is self.given:
            raise ProofError(f"pass {name} edited the model that it was given; it declares in_place = False")
        if self.step.in_place and model is not self.given:
            raise ProofError(f"pass {name} gave a new model; it declares in_place = True")
        if self.check:
            check_wiring(model, name)

    def ensured(self, model: Model) -> None:
        """Raise ProofError where a condition that the pass ensures does not hold of what it left."""
        for condition in self.step.ensures if self.check else ():
            why = condition.missing(model, self.context)
            if why is not None:
                name, why = self.step.name, why.replace("{name}", self.step.name)
                raise ProofError(f"pass {name} ensures {condition}, and does not: {why}")


def check_wiring(model: Model, name: str) -> None:
    """The graph is one that could be saved: every input of a node is made before it is read. Raises ProofError."""
    from onnx_graphsurgeon import Constant

    made = {t.name for t in model.graph.inputs}
    for node in model.graph.nodes:
        for tensor in node.inputs:
            if tensor.name and not isinstance(tensor, Constant) and tensor.name not in made:
                raise ProofError(f"pass {name} left {node.op} {node.name} reading {tensor.name}, which nothing makes")
        made.update(t.name for t in node.outputs)
