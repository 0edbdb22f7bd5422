"""Compare two model files: `hwpass verify`. With the plan between them, the rewrite is proved exact again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rich.console import Console

from hwpass.context import Context
from hwpass.coupling.groups import Coupling
from hwpass.data.given_inputs import given_inputs
from hwpass.errors import InputError, VerdictError, option
from hwpass.figures import brief, counted
from hwpass.manager import preparation
from hwpass.model.digest import content_digest
from hwpass.model.model import Model
from hwpass.model.sources import Source
from hwpass.node_names import short_path
from hwpass.passes.verify import Verify
from hwpass.planning.plan import Plan
from hwpass.planning.stages import Pruned, Stage
from hwpass.reporting.build import verdicts_of
from hwpass.reporting.schema import Verdicts
from hwpass.reporting.tables import print_line
from hwpass.reporting.terminal import verdict_line
from hwpass.runtime.comparison import tolerance_of
from hwpass.runtime.inputs import input_specs, is_float
from hwpass.runtime.stated_inputs import stated_specs
from hwpass.runtime.threads import check_threads
from hwpass.surgery.cut import Surgery, prune
from hwpass.surgery.dense_twin import dense_twin
from hwpass.surgery.norm_forms import centred_like, raised
from hwpass.surgery.vocabulary import spread_rows
from hwpass.verdicts.legs import Proof
from hwpass.verdicts.masking import left_of, removed_components
from hwpass.verdicts.proof import Prover
from hwpass.verdicts.proof_feeds import proof_feeds
from hwpass.verdicts.proof_sides import AsGiven, InMemory
from hwpass.workflows.inspect import coupled
from hwpass.workflows.job import CONTENT, PLAN


@dataclass(frozen=True)
class Comparison:
    """The verdicts on two models, and what should be known about them besides."""

    verdicts: Verdicts
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return brief(self, *self.verdicts.states(), counted(len(self.warnings), "warning"))


def verify_models(
    original: Source,
    pruned: Source,
    plan: Plan | None,
    step: Verify,
    *,
    calib: Any = None,
    input: str | Iterable[str] = (),
    seed: int = 0,
    threads: int = 1,
    unproved: bool = False,
    allow_external: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> Comparison:
    """The verdicts on two models: validity, fidelity, the metric, and with a plan exactness.

    With a plan PRUNED must be what the plan makes of ORIGINAL. Where its weights were changed afterwards, the dense
    twin made of them proves the structure; the weights themselves are proved only where they are those that hwpass
    wrote. Without a plan, exactness is judged only where both give the same. Raises InputError for models or plans that
    cannot be used, VerdictError when a verdict fails, or with a plan when it is not proved and `unproved` is not given.
    """
    check_threads(threads)
    progress("loading")
    first, second = (Model.load(source, allow_external=allow_external) for source in (original, pruned))
    _check_interfaces(first, second)
    context = Context(threads=threads, seed=seed, progress=progress)
    context.bind(first)
    if calib is not None:
        specs = stated_specs(input_specs(first.interface()), input)
        context.calibration = given_inputs(first, calib, specs, context.warn, threads)
    context.findings.proof = proof = _proof(first, second, plan, step, context)
    try:
        if proof.state == "failed":
            raise VerdictError(f"exactness failed: {proof}")
        if proof.state != "passed" and plan is not None and not unproved:
            raise VerdictError(f"{proof} ({option('unproved', True)} accepts that)")
        replace(step, exact=False).run(second, context)
    except VerdictError as error:
        # The pass speaks for a run, which would have written a file.
        raise VerdictError(
            str(error).replace(", nothing was written", "").replace("; nothing was written", "")
        ) from None
    return Comparison(verdicts_of(context), tuple(context.warnings))


def _proof(first: Model, second: Model, plan: Plan | None, step: Verify, context: Context) -> Proof:
    """The legs between two models as they were given."""
    threads, rtol = context.threads, step.tolerance
    assert first.source is not None
    assert second.source is not None
    given = AsGiven("the original file", first.source, threads)
    final = AsGiven("the pruned file", second.source, threads)
    prover = Prover(given, proof_feeds(first, context, given), rtol, step.atol, threads, context.progress)
    if plan is None:
        leg = prover.compare("values", given, final, second, lambda name, value: value, closely=False)
        if leg.state == "passed":
            return Proof((leg,), (), tuple(prover.warnings), tolerance_of("float32", rtol))
        return Proof((), (f"without the plan nothing says what was removed; give {option('plan')}",))
    if plan.model_sha256 != first.sha256:
        context.warn("the plan was made for a model of other bytes; it fits this one's groups, and was used")
    coupling = coupled(first, context.progress, preparation(plan))
    surgery = prune(coupling, plan.keep(coupling))
    pruned = Pruned(plan, coupling, surgery)
    stages = [Stage("exact", (), coupling.build.model), Stage("cut", (), surgery.model, pruned)]
    cut = InMemory("the cut model", lambda: surgery.model, threads)
    proof = prover.prove(coupling.build.model, stages, cut)
    if proof.state != "passed":
        return proof
    (same,) = prover.rewritten(surgery.model, cut, second, final)
    if same.state == "passed":
        return replace(proof, legs=(*proof.legs, same), warnings=tuple(prover.warnings))
    if centred_like(surgery.model, second) is not None:
        proof = replace(proof, legs=(*proof.legs, prover.centred(surgery.model, second)))
        if proof.state != "passed":
            return replace(proof, warnings=tuple(prover.warnings))
    given_weights = raised(spread_rows(second), surgery)
    _check_weights(surgery, given_weights)
    twin = InMemory("the dense twin", lambda: restored(_twin(coupling, surgery, given_weights), second), threads)
    removed = removed_components(coupling, plan)
    leg = prover.compare("refit", twin, final, second, partial(left_of, coupling, removed))
    missing = ""
    if second.metadata.get(CONTENT) != content_digest(second):
        missing = "the weights are not those that hwpass wrote (the model was tuned?), which proves its structure alone"
    elif second.metadata.get(PLAN) != plan.digest:
        # Refitted weights fit any choice of as many channels.
        missing = "the plan is not the one that the weights were made by (it was edited?)"
    found = replace(proof, legs=(*proof.legs, leg), warnings=tuple(prover.warnings))
    return replace(found, missing=(missing,)) if missing and leg.state == "passed" else found


def restored(twin: Model, like: Model) -> Model:
    """The dense twin with norms as a model that lower-norms has been through has them."""
    return centred_like(twin, like) or twin


def _check_interfaces(first: Model, second: Model) -> None:
    for side in ("inputs", "outputs"):
        wanted, given = ([tensor.name for tensor in getattr(model.graph, side)] for model in (first, second))
        if wanted != given:
            names = [short_path(model.path or "model") for model in (first, second)]
            raise InputError(
                f"the models cannot be compared: {names[0]} has the {side} {', '.join(wanted)},"
                f" {names[1]} has {', '.join(given)}"
            )


def _check_weights(surgery: Surgery, theirs: Model) -> None:
    """The plan's weights are the pruned model's, by name and shape; their values are its own."""
    given = theirs.constants()
    sliced = {piece.name for piece in surgery.slices}
    for name, tensor in surgery.model.constants().items():
        if name not in sliced and not is_float(tensor.values.dtype):
            continue
        if name not in given:
            raise VerdictError(f"exactness cannot be proved: the pruned model has no weight {name}")
        if tuple(given[name].shape) != tuple(tensor.shape):
            raise VerdictError(
                f"exactness failed: the plan gives weight {name} the shape {list(tensor.shape)},"
                f" in the pruned model it is {list(given[name].shape)}"
            )


def _twin(coupling: Coupling, surgery: Surgery, theirs: Model) -> Model:
    """The dense twin with every weight of the pruned model, also those that lost nothing."""
    twin = dense_twin(coupling, replace(surgery, model=theirs))
    ours, given = surgery.model.constants(), theirs.constants()
    for name, tensor in twin.constants().items():
        # Copies share arrays, so this constant was left alone by the surgery (unlike targets of reshapes).
        if name in ours and name in given and ours[name].values is tensor.values:
            tensor.values = given[name].values
    return twin


def render_verdicts(found: Comparison, console: Console) -> None:
    """Print one line per verdict and warning."""
    for row in found.verdicts.rows():
        console.print(verdict_line(row), soft_wrap=True)
    for warning in found.warnings:
        print_line(console, f"warning: {warning}")
