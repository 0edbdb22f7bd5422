"""Compare two model files: `hwpass verify`. With the plan between them, the rewrite is proved exact again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from hwpass.calibration import load_calibration
from hwpass.coupling import Coupling
from hwpass.describe import coupled
from hwpass.errors import InputError, VerdictError
from hwpass.files import Source
from hwpass.inputs import input_specs, is_float
from hwpass.ir import Model
from hwpass.manager import Context, PassManager
from hwpass.naming import short_path
from hwpass.outcome import verdicts_of
from hwpass.passes.lower_norms import raised
from hwpass.plan import Plan
from hwpass.report import Verdicts
from hwpass.rewrite import Surgery, prune
from hwpass.tables import print_line
from hwpass.twin import dense_twin


@dataclass(frozen=True)
class Comparison:
    """The verdicts on two models, and what should be known about them besides."""

    verdicts: Verdicts
    warnings: tuple[str, ...] = ()


def verify_models(
    original: Source,
    pruned: Source,
    plan: Plan | None,
    verify_text: str,
    *,
    calib: Any = None,
    seed: int = 0,
    threads: int = 1,
    allow_external: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> Comparison:
    """The verdicts on two models: validity, fidelity, the metric, and with a plan exactness.

    With a plan the dense twin is made from ORIGINAL and PRUNED's own weights, so that it proves the surgery
    also of a model whose weights were changed afterwards. Raises InputError for models or plans that cannot
    be used, VerdictError when a verdict fails.
    """
    progress("loading")
    first, second = (Model.load(source, allow_external=allow_external) for source in (original, pruned))
    _check_interfaces(first, second)
    reference = first.source if isinstance(first.source, Path) else first.proto()
    context = Context(original=reference, threads=threads, seed=seed, progress=progress)
    if calib is not None:
        context.calibration = load_calibration(calib, input_specs(first.interface()))
    steps = verify_text
    if plan is None:
        steps = steps.replace("verify{", "verify{exact=false,", 1)
    else:
        if plan.model_sha256 != first.sha256:
            context.warn("the plan was made for a model of other bytes; it fits this one's groups, and was used")
        coupling = coupled(first, progress, plan.prepare)
        surgery = prune(coupling, plan.keep(coupling))
        given = raised(second, surgery)
        _check_weights(surgery, given)
        theirs = replace(surgery, model=given)
        context.found.update(
            coupling=coupling, surgery=theirs, prepared=True, twin=lambda: _twin(coupling, surgery, given)
        )
    try:
        PassManager.parse(steps).run(second, context)
    except VerdictError as error:
        # The pass speaks for a run, which would have written a file.
        raise VerdictError(
            str(error).replace(", nothing was written", "").replace("; nothing was written", "")
        ) from None
    return Comparison(verdicts_of(context), tuple(context.warnings))


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
    for name, passed, figures in found.verdicts.rows():
        print_line(console, f"{name} {'passed' if passed else 'FAILED'}" + (f": {figures}" if figures else ""))
    for warning in found.warnings:
        print_line(console, f"warning: {warning}")
