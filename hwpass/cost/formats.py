"""How many bytes a target takes for an element of a tensor."""

from __future__ import annotations

from typing import Any

from hwpass.cost_models.target import DTYPE_BYTES, Target


class Formats:
    """Bytes of an element by its type in the model: the target's format for floating-point numbers, else the model's.

    A target that has figures for the model's format, or for a wider one, keeps what the model has. One that has only
    narrower ones runs the model in the widest of these, as a deployment quantises it.
    """

    def __init__(self, target: Target | None = None) -> None:
        self._asked = None if target is None or target.dtype is None else DTYPE_BYTES[target.dtype]
        self._widest = 8 if target is None else max(DTYPE_BYTES[dtype] for dtype in target.peak)

    def __call__(self, dtype: Any) -> float:
        """Bytes of an element of a NumPy dtype; an unknown one is taken for a 32-bit number."""
        own = 4 if dtype is None else int(dtype.itemsize)
        if dtype is not None and dtype.kind != "f":
            return float(own)
        if self._asked is not None:
            return float(min(own, self._asked) if own < self._asked else self._asked)
        return float(min(own, self._widest))
