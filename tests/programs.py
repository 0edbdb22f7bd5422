"""Programs of random graphs, drawn without the search of the strategy that draws them."""

from __future__ import annotations

from typing import Any

import numpy as np


def sample(count: int, start: int = 10_000) -> list[tuple[Any, ...]]:
    """Programs drawn as the strategy draws them, but without its search."""
    rng = np.random.default_rng(start)

    def step() -> tuple[int, int, int]:
        return int(rng.integers(161)), max(0, int(rng.integers(6)) - 3), int(rng.integers(10_000))

    return [(int(rng.integers(11, 22)), int(rng.integers(40)), int(rng.integers(10_000)),
             tuple(step() for _ in range(18))) for _ in range(count)]  # fmt: skip
