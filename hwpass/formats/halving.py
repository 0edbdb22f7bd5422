"""A model in half precision, and what a report says of it."""

from __future__ import annotations

from collections import Counter

from hwpass.data.synthetic_inputs import Synthetic
from hwpass.errors import UsageError, option
from hwpass.formats.half import LAYERS, halves, in_half, places
from hwpass.formats.integers import Changed, samples_of, warn_made_up
from hwpass.formats.nearness import Nearness
from hwpass.formats.placement import types_of
from hwpass.formats.ranges import observe
from hwpass.formats.sensitivity import left_alone
from hwpass.model.model import Model
from hwpass.runtime.settings import Settings


def halved(
    model: Model, settings: Settings, synthetic: Synthetic | None, samples: int, max_drop: float, max_error: float,
    keep: tuple[str, ...],
) -> Changed | None:  # fmt: skip
    """The model with what can be in 16 bits; None where nothing can. Raises UsageError where no samples are had."""
    found = samples_of(model, settings, synthetic)
    if found is None:
        raise UsageError(f"to-fp16 needs samples, and none that were made up run; give some by {option('calib')}")
    learn, choose, made = found
    warn_made_up(made, "what values become was seen", settings)
    types = types_of(model)
    names = {t.name for n in model.graph.nodes if places(n, types) for t in (*n.inputs, *n.outputs)}
    wanted = sorted(name for name in names if types.get(name) == 1)
    settings.progress("observing values")
    seen = observe(model, wanted, learn, samples, settings.threads, histograms=False)
    whole = halves(model, seen, keep)
    if not whole.nodes:
        return None
    layers = [name for name, node in whole.nodes.items() if node.op in LAYERS]
    near = Nearness(model, choose, settings.threads)
    left, result, close = left_alone(
        lambda some: in_half(model, whole.nodes.keys() - some), layers, near, max_drop, max_error, settings.progress
    )
    if not close.within(max_drop, max_error):
        settings.warn("to-fp16: what is allowed to be lost cannot be met, whatever layers are left in 32 bits")
    done = whole.nodes.keys() - left
    reasons = Counter(whole.reasons.values())
    note = {
        "operators in 16 bits": len(done), "size": round(result.size_bytes() / max(model.size_bytes(), 1), 4),
        "relative error on other samples": float(f"{close.error:.3g}"),
        "in 32 bits": {**dict(reasons.most_common(8)), **({"16 bits lose too much there": len(left)} if left else {})},
    }  # fmt: skip
    if close.drop is not None:
        note["predicted drop on other samples"] = float(f"{close.drop:.3g}")
    return Changed(result, {}, note)
