"""What does nothing, or nothing new, taken out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwpass.manager import Pass, PassResult, register

if TYPE_CHECKING:
    from hwpass.context import Context
    from hwpass.model.model import Model


@register
@dataclass(frozen=True)
class Eliminate(Pass):
    """f(x), f(x) -> one of them; Transpose(Transpose(x)), Reshape(Reshape(x)), Cast(Cast(x)) -> one of them, or x.

    An Identity, a Dropout at rest, a Cast to the type there is, a Transpose that keeps the order, a Reshape to the
    shape there is, a Concat or Sum of one -> x; nodes and weights that nothing reads -> nothing. No number changes,
    not in its last bit: `fold` is what computes.

    Does not fire on what makes an output of the model or is read in a body, on random generators, on nodes with bodies,
    on a pair of casts that loses digits in between, or on a Reshape whose target has a zero.
    """

    name = "eliminate"
    preparation = True
    in_place = True

    def run(self, model: Model, context: Context) -> PassResult:
        from hwpass.surgery.elimination import eliminate

        found = eliminate(model)
        if found:
            context.findings.note(self.name, dict(sorted(found.items())))
            model.invalidate_shapes()
        return PassResult(model, bool(found))
