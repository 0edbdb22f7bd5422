"""The steps of a usual run, as pipeline text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hwpass.errors import UsageError

#: What runs before channels are coupled, and so what group names in a plan refer to.
PREPARE = "fold,fuse-bn,rotate-streams,fold-redundant"



def chosen_score(score: str, compensate: str, calib: Any) -> str:
    """The score that is meant: curves on made-up inputs suppose that weights are refitted, so without that it is l2."""
    return "l2" if score == "auto" and compensate == "off" and calib is None else score


def amends(compensate: str, calib: Any, score: str = "") -> str:
    """The pipeline text of what follows pruning, but for the verdicts: compensation, which wants the user's inputs or
    those that an auto score makes up, and norms in standard operators."""
    if compensate not in ("auto", "off"):
        raise UsageError(f"--compensate {compensate}: choose auto or off")
    wanted = compensate == "auto" and (calib is not None or score == "auto")
    return ("compensate," if wanted else "") + "lower-norms,"


def prune_step(
    budgets: Mapping[str, str],
    *,
    score: str = "auto",
    keep: Iterable[str] = (),
    min_channels: int = 1,
    align: int | None = None,
) -> str:
    """The pipeline text of pruning within budgets."""
    return "prune-channels" + _options({
        **budgets, "score": score, "keep": "|".join(keep), "min_channels": str(min_channels), "align": str(align or 0),
    })  # fmt: skip


def verify_step(
    rtol: float | None = None,
    atol: float = 1e-9,
    fidelity: Iterable[str] = (),
    metric: str | None = None,
    max_drop: float | None = None,
) -> str:
    """The pipeline text of the verdicts. Raises UsageError for a drop that nothing can have."""
    if max_drop is not None and metric is None:
        raise UsageError("--max-drop bounds the drop of a metric: give one with --metric package.module:function")
    if max_drop is not None and not max_drop >= 0:
        raise UsageError(f"--max-drop {max_drop}: a drop is at least 0")
    return "verify" + _options({
        "rtol": "" if rtol is None else f"{rtol!r}", "atol": f"{atol!r}", "fidelity": "|".join(fidelity),
        "metric": metric or "",
        "max_drop": "" if max_drop is None else f"{max_drop!r}",
    })  # fmt: skip


def _options(values: Mapping[str, str]) -> str:
    texts = [f"{key.replace('_', '-')}={value}" for key, value in values.items() if value]
    for text in texts:
        if any(c in text for c in ",{}"):
            raise UsageError(f"{text}: commas and braces cannot stand in an option")
    return "{" + ",".join(texts) + "}"
