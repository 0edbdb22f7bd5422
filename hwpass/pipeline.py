"""The parts of a pipeline besides passes: passes in brackets, and passes that run several times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from hwpass.errors import UsageError, option
from hwpass.figures import brief

#: Rounds of a repetition that says nothing of them, and the most that it may say.
ROUNDS, MOST_ROUNDS = 8, 1000

#: Brackets inside brackets, at most.
DEEPEST = 32


@dataclass(frozen=True, init=False)
class Group:
    """Passes in brackets, in order.

    >>> str(Group("a", Group("b")))
    '(a,(b))'
    """

    steps: tuple[Any, ...]

    def __init__(self, *steps: Any) -> None:
        if not steps:
            raise UsageError("pipeline: there is nothing in brackets; put a pass there")
        object.__setattr__(self, "steps", steps)

    def __repr__(self) -> str:
        return brief(self, str(self))

    def __str__(self) -> str:
        return f"({','.join(map(str, self.steps))})"


@dataclass(frozen=True, init=False)
class Repeat(Group):
    """Passes that run at most `n` times in a row; a round that changes nothing is the last.

    >>> str(Repeat("a", "b", n=3)), str(Repeat("a"))
    ('repeat{n=3}(a,b)', 'repeat(a)')
    """

    n: int = ROUNDS

    def __init__(self, *steps: Any, n: int = ROUNDS) -> None:
        super().__init__(*steps)
        if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MOST_ROUNDS:
            raise UsageError(f"repeat: {option('n', n)}: give 1 to {MOST_ROUNDS}")
        object.__setattr__(self, "n", n)

    def __str__(self) -> str:
        return f"repeat{f'{{n={self.n}}}' if self.n != ROUNDS else ''}{Group.__str__(self)}"


def flat(steps: Iterable[Any]) -> Iterator[Any]:
    """The passes of a pipeline in order, those of a repetition once."""
    for step in steps:
        if isinstance(step, Group):
            yield from flat(step.steps)
        else:
            yield step
