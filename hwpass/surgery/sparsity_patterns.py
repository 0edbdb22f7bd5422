"""Which weights of a product may be zero together: anywhere, N of M along the inputs, or in blocks.

A weight is seen as [groups, inputs, taps, outputs]. What a sparse kernel reads is the reduction axis: for sparse tensor
cores two of every four consecutive input channels are zero, for each output channel and each position of the window
(NVIDIA TensorRT Developer Guide, "Sparsity": weights [K, C, R, S], every four of C).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwpass.errors import UsageError

Mask = NDArray[np.bool_]
Scores = NDArray[np.floating[Any]]

_RATIO = re.compile(r"([0-9]{1,3}):([0-9]{1,3})")
_BLOCK = re.compile(r"([0-9]{1,4})x([0-9]{1,4})")


@dataclass(frozen=True)
class Pattern:
    """`n` of `m` consecutive inputs are kept, where `m` is given; else blocks of `rows` outputs by `columns` inputs
    are kept or go as one (1 by 1: any weight by itself)."""

    n: int = 0
    m: int = 0
    rows: int = 1
    columns: int = 1

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """`unstructured`, `2:4` or `4x1`. Raises UsageError."""
        if text == "unstructured":
            return cls()
        ratio, block = _RATIO.fullmatch(text), _BLOCK.fullmatch(text)
        if ratio is not None and 0 < (n := int(ratio[1])) < (m := int(ratio[2])):
            return cls(n=n, m=m)
        if block is not None and (rows := int(block[1])) and (columns := int(block[2])):
            return cls(rows=rows, columns=columns)
        raise UsageError(
            f"pattern {text!r}: write unstructured, N:M with 0 < N < M such as 2:4 (along the inputs), or"
            " OUTPUTSxINPUTS such as 4x1 (blocks)"
        )

    def __str__(self) -> str:
        if self.m:
            return f"{self.n}:{self.m}"
        return "unstructured" if self.rows == self.columns == 1 else f"{self.rows}x{self.columns}"

    @property
    def sparsity(self) -> float | None:
        """The share of zeros that the pattern itself decides; None where it is chosen."""
        return 1 - self.n / self.m if self.m else None

    def misfit(self, inputs: int, outputs: int) -> str | None:
        """Why a weight of so many inputs and outputs per group cannot have the pattern; None where it can."""
        if self.m and inputs % self.m:
            return f"{inputs} inputs are no multiple of {self.m}"
        if inputs % self.columns:
            return f"{inputs} inputs are no multiple of {self.columns}"
        if outputs % self.rows:
            return f"{outputs} outputs are no multiple of {self.rows}"
        return None

    def units(self, size: int) -> int:
        """How many parts that are kept or go as one a weight of `size` elements has."""
        return size // (self.rows * self.columns)

    def merits(self, scores: Scores) -> Scores:
        """The sum of scores [groups, inputs, taps, outputs] over each block, of the same rank."""
        groups, inputs, taps, outputs = scores.shape
        shape = (groups, inputs // self.columns, self.columns, taps, outputs // self.rows, self.rows)
        return np.asarray(scores.reshape(shape).sum(axis=(2, 5)))

    def mask(self, scores: Scores, kept: int) -> Mask:
        """The best mask for scores of at least 0, [groups, inputs, taps, outputs]: which weights are kept.

        `kept` blocks are kept where the pattern leaves that open. Of equals the earlier one is kept.
        """
        groups, inputs, taps, outputs = scores.shape
        if self.m:
            parts = np.moveaxis(scores.reshape(groups, inputs // self.m, self.m, taps, outputs), 2, -1)
            order = np.argsort(-parts, axis=-1, kind="stable")[..., : self.n]
            found = np.zeros(parts.shape, bool)
            np.put_along_axis(found, order, True, axis=-1)
            return np.asarray(np.moveaxis(found, -1, 2).reshape(scores.shape))
        merits = self.merits(scores)
        flat = merits.reshape(-1)
        chosen = np.zeros(flat.size, bool)
        if kept >= flat.size:
            chosen[:] = True
        elif kept > 0:
            least = np.partition(flat, flat.size - kept)[flat.size - kept]
            chosen = flat > least
            chosen[np.flatnonzero(flat == least)[: kept - int(chosen.sum())]] = True
        blocks = chosen.reshape(merits.shape)
        return np.repeat(np.repeat(blocks, self.columns, axis=1), self.rows, axis=3)
