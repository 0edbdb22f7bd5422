"""Rows of embedding tables that no sample looks up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hwpass.contract import DATA, PRUNED
from hwpass.errors import UsageError, option
from hwpass.manager import Pass, PassResult, register

if TYPE_CHECKING:
    from hwpass.context import Context
    from hwpass.model.model import Model
    from hwpass.runtime.calibration import Calibration
    from hwpass.surgery.vocabulary import Table


@register
@dataclass(frozen=True)
class PruneVocabulary(Pass):
    """Rows of an embedding table that no sample of the user's looks up -> the row nearest in direction that one does.

    The table keeps its shape: share-rows then holds equal rows once. Ids keep their meaning, and every sample gives
    what it gave. The first rows stay, since special tokens and bytes stand there. Does not fire without the user's
    data, before prune-channels, on a table that anything else reads (an output layer that shares it), on ids that are
    computed, on positions and token types, or for less than 64 KiB.
    """

    name = "prune-vocabulary"
    effect = "refit"
    in_place = True
    requires = (DATA, PRUNED)
    preserves = ("shapes", "coupling", "cost")
    first: int = field(default=256, metadata={"help": "rows from the first on that stay as they are"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first < 0:
            raise UsageError(f"pass prune-vocabulary: option first={self.first}: give 0 or more")

    def run(self, model: Model, context: Context) -> PassResult:
        import numpy as np

        from hwpass.runtime.inputs import input_specs
        from hwpass.surgery.vocabulary import WORTH, nearest, vocabularies

        assert context.calibration is not None
        changed = False
        found = vocabularies(model, input_specs(model.interface()))
        for table in found:
            count = int(table.constant.shape[0])
            learned = _counts(table, context.calibration)
            apart = np.zeros(count, np.int64) if context.apart is None else _counts(table, context.apart)
            looked_up = learned + apart > 0
            kept = looked_up | (np.arange(count) < self.first)
            saved = table.saved(int(kept.sum()))
            if saved < WORTH:
                continue
            values = table.constant.values
            nearby = nearest(values, kept, looked_up)
            context.findings.note(self.name, {table.constant.name: _told(learned, apart, kept, nearby, saved)})
            if not np.array_equal(values, values[nearby]):
                table.constant.values = values[nearby]
                changed = True
        if not context.findings.notes.get(self.name):
            why = (
                f"less than {WORTH >> 10} KiB would go"
                if found
                else "no table is looked up by an input's token ids alone"
            )
            context.warn(f"{option('prune_vocabulary')} left the vocabulary as it is: {why}")
        return PassResult(model, changed)


def _counts(table: Table, data: Calibration) -> Any:
    """How often each row is looked up, [rows]."""
    import numpy as np

    count = int(table.constant.shape[0])
    found = np.zeros(count, np.int64)
    for feed in data.batches():
        for name in table.inputs or ():
            ids = np.asarray(feed[name]).reshape(-1).astype(np.int64)
            found += np.bincount(np.where(ids < 0, ids + count, ids), minlength=count)
    return found


def _told(learned: Any, apart: Any, kept: Any, nearby: Any, saved: int) -> dict[str, Any]:
    """What the report says of a table."""
    import numpy as np

    others = np.flatnonzero(~kept)
    told = {
        "rows": f"{int(kept.sum())} of {len(kept)}", "MB less": round(saved / 1e6, 2),
        "fall back on the nearest": len(others),
        "such as": [f"{i} on {nearby[i]}" for i in others[:: len(others) // 8 + 1]],
    }  # fmt: skip
    if apart.sum():
        # What was set apart stands for text to come, of which nothing was seen.
        told["of tokens to come fall back"] = f"{float(apart[learned == 0].sum() / apart.sum()):.2%}"
    return told
