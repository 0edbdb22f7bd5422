"""Constant folding and removal of what nothing reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hwpass.errors import UsageError
from hwpass.manager import Pass, PassResult, register

if TYPE_CHECKING:
    from hwpass.context import Context
    from hwpass.model.model import Model

#: What a protobuf can hold, and so the largest `limit` that can mean anything.
LARGEST = (1 << 31) - 1


@register
@dataclass(frozen=True)
class Fold(Pass):
    """Nodes of constants -> constants; If of a constant -> its branch; Identity of x -> x; unread -> nothing.

    The target of a Reshape that is computed, though inputs decide on one extent of it at most, or on such that the data
    has at the same place, becomes a constant with -1 and 0 there.

    Does not fire when the result would be larger than `limit` bytes (a table that is cheap to compute and dear to
    store) and than the constant that it takes the place of, or of a size that the shapes do not tell; on dequantised
    weights, on random generators, on loops, on products that would take long, and on what makes an output.
    """

    name = "fold"
    preparation = True
    in_place = True
    limit: int = field(
        default=1 << 20, metadata={"help": "largest folded tensor that is larger than its inputs, in bytes"}
    )

    def __post_init__(self) -> None:
        if not 0 <= self.limit <= LARGEST:
            raise UsageError(f"pass fold: option limit={self.limit}: give 0 to {LARGEST} bytes")

    def run(self, model: Model, context: Context) -> PassResult:
        from hwpass.surgery.constant_folding import fold

        return PassResult(model, fold(model, self.limit))
