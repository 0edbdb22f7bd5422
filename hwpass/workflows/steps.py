"""The steps of a usual run, as pipeline text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hwpass.errors import UsageError, option
from hwpass.figures import shown
from hwpass.pipeline_text import texts, written
from hwpass.planning.score import makes_inputs
from hwpass.verdicts.task_metric import no_metric

#: What runs before channels are coupled, and so what group names in a plan refer to.
PREPARE = "fold,fuse-bn,rotate-streams,fold-redundant"



def chosen_score(score: str, compensate: str, calib: Any) -> str:
    """The score that is meant: curves on made-up inputs suppose that weights are refitted, so without that it is l2."""
    return "l2" if makes_inputs(score) and compensate == "off" and calib is None else score


def amends(compensate: str, calib: Any, score: str = "") -> str:
    """The pipeline text of what follows pruning, but for the verdicts: compensation, which wants the user's inputs or
    those that a score has made up, and norms in standard operators."""
    if compensate not in ("auto", "off"):
        raise UsageError(f"{option('compensate', shown(compensate))}: choose auto or off")
    wanted = compensate == "auto" and (calib is not None or makes_inputs(score))
    return ("compensate," if wanted else "") + "lower-norms,"


def prune_step(
    budgets: Mapping[str, str],
    *,
    score: str = "auto",
    keep: str | Iterable[str] = (),
    min_channels: int = 1,
    align: int | None = None,
) -> str:
    """The pipeline text of pruning within budgets."""
    return "prune-channels" + _options({
        **budgets, "score": score, "keep": texts("keep", keep), "min_channels": min_channels, "align": align or 0,
    })  # fmt: skip


def verify_step(
    rtol: float | None = None,
    atol: float = 1e-9,
    fidelity: str | Iterable[str] = (),
    metric: str | None = None,
    max_drop: float | None = None,
) -> str:
    """The pipeline text of the verdicts. Raises UsageError for a drop that nothing can have."""
    if max_drop is not None and metric is None:
        raise no_metric()
    if max_drop is not None and not max_drop >= 0:
        raise UsageError(f"{option('max_drop', max_drop)}: a drop is at least 0")
    return "verify" + _options({
        "rtol": rtol, "atol": atol, "fidelity": texts("fidelity", fidelity), "metric": metric, "max_drop": max_drop,
    })  # fmt: skip


def _options(values: Mapping[str, Any]) -> str:
    given = [f"{key.replace('_', '-')}={written(value)}" for key, value in values.items() if value not in (None, ())]
    return "{" + ",".join(given) + "}"
