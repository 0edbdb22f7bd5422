"""What a model takes and gives: it must survive every rewrite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import onnxruntime as ort


class Interface(NamedTuple):
    """What a model takes and gives, as ONNX Runtime sees it: names, types and fixed extents."""

    inputs: tuple[tuple[str, str, tuple[int | None, ...]], ...]
    outputs: tuple[tuple[str, str, tuple[int | None, ...]], ...]
    defaults: tuple[str, ...]  # inputs that need not be fed

    @classmethod
    def of(cls, session: ort.InferenceSession) -> Interface:
        """The interface of a session's model."""
        sides = [tuple(map(_declared, side)) for side in (session.get_inputs(), session.get_outputs())]
        defaults = sorted(item.name for item in session.get_overridable_initializers())
        return cls(sides[0], sides[1], tuple(defaults))

    def broken_by(self, other: Interface) -> str | None:
        """What of this interface another one does not keep; extents count where both are fixed."""
        for what, ours, theirs in (("inputs", self.inputs, other.inputs), ("outputs", self.outputs, other.outputs)):
            if [entry[:2] for entry in ours] != [entry[:2] for entry in theirs]:
                return f"the {what} are {_listed(theirs)} instead of {_listed(ours)}"
            for (name, _, shape), (_, _, shape_now) in zip(ours, theirs, strict=True):
                pairs = zip(shape, shape_now, strict=False)
                if (
                    shape
                    and shape_now
                    and (len(shape) != len(shape_now) or any(None not in (a, b) and a != b for a, b in pairs))
                ):
                    return f"{name!r} has the shape {list(shape_now)} instead of {list(shape)}"
        gone = sorted(set(self.defaults) - set(other.defaults))
        return f"the input {gone[0]!r}, which has a default value, is gone" if gone else None


def _declared(item: Any) -> tuple[str, str, tuple[int | None, ...]]:
    return item.name, item.type, tuple(d if isinstance(d, int) and d > 0 else None for d in item.shape or ())


def _listed(entries: Sequence[tuple[str, str, tuple[int | None, ...]]]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind, _ in entries) or "none"
