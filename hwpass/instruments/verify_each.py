"""A proof after every pass, against the model before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from hwpass.errors import InputError, ProofError
from hwpass.instrument import Instrument, PassRecord, Step
from hwpass.planning.stages import Stage
from hwpass.spans import span
from hwpass.verdicts.proof import Prover
from hwpass.verdicts.proof_feeds import proof_feeds
from hwpass.verdicts.proof_sides import AsGiven, InMemory

if TYPE_CHECKING:
    from hwpass.context import Context
    from hwpass.model.model import Model
    from hwpass.runtime.sessions import Feed
    from hwpass.verdicts.legs import Proof


class VerifyEach(Instrument):
    """Proves what each pass did as soon as it ran, by the leg that belongs to its effect; the first that fails ends the
    run with ProofError. What a pass claims nothing of is not judged, and noted so.

    `rtol` and `atol` are the proof's. `proofs` has a proof for each pass that changed something, by its text.
    """

    needs_before: ClassVar[bool] = True

    def __init__(self, rtol: float | None = None, atol: float = 1e-9) -> None:
        self.rtol, self.atol = rtol, atol
        self.proofs: list[tuple[str, Proof]] = []
        self._given: AsGiven | None = None
        self._feeds: list[Feed] = []
        self._loaded: Model | None = None

    def begin(self, steps: Sequence[Step], model: Model, context: Context) -> None:
        self.proofs, self._given, self._feeds = [], None, []
        self._loaded = model.copy()

    def after(self, step: Step, before: Model, model: Model, record: PassRecord, context: Context) -> None:
        """Raise ProofError where the proof of the pass fails."""
        if not record.changed or step.effect == "none":
            return
        with span("verify each"):
            proof = self._proof(context)
        self.proofs.append((record.name, proof))
        context.findings.note("verify-each", {f"{len(self.proofs)} {step.name}": str(proof)})
        if proof.state == "failed":
            raise ProofError(f"{step.name} is not exact, nothing was written: {proof.reason}")

    def _proof(self, context: Context) -> Proof:
        stages = context.findings.stages
        # A refit is proved by the removal before it; what lies further back has been proved already.
        cuts = [place for place, stage in enumerate(stages[:-1]) if stage.pruned is not None]
        start = len(stages) - 1 if not cuts else cuts[-1]
        start = max(start - 1, 0)
        feeds, given = self._compared(context)
        chain = list(stages[start:])
        left: AsGiven | InMemory = given
        if start:
            # Proved equal to what it came from: the chain begins anew with it.
            anchor = chain[0] = replace(chain[0], effect="exact", pruned=None)
            left = InMemory(f"the model after {', '.join(anchor.passes)}", partial(_model, anchor), context.threads)
        final = InMemory("the model after it", partial(_model, chain[-1]), context.threads)
        prover = Prover(left, feeds, self.rtol, self.atol, context.threads, context.progress)  # type: ignore[arg-type]
        assert self._loaded is not None
        proof = prover.prove(self._loaded, chain, final)
        for warning in proof.warnings:
            context.warn(warning)
        return proof

    def _compared(self, context: Context) -> tuple[list[Feed], AsGiven]:
        """Inputs, and the model as it was given, which knows its outputs on them."""
        if self._given is None:
            assert self._loaded is not None
            if context.original is None:
                raise InputError("verify-each needs the original model in the context")
            self._given = AsGiven("the file as given", context.original, context.threads)
            self._feeds = proof_feeds(self._loaded, context, self._given)
        return self._feeds, self._given


def _model(stage: Stage) -> Model:
    return stage.model
