"""What was found out about the models of a run, kept until a pass makes it untrue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

from hwpass.figures import brief
from hwpass.spans import span

T = TypeVar("T")

#: What is analysed: the walk over the graph with the shape and the known value of every tensor, the channels that go
#: together, predicted costs, and what inputs and losses look like.
ANALYSES = ("shapes", "coupling", "cost", "statistics")


@dataclass(frozen=True)
class Entry:
    """One result, with all that it depends on."""

    key: Hashable
    value: Any
    holds: Callable[[], bool]  # whether what it was made of is still as it was


class Analyses:
    """The latest result of every analysis of a run.

    A result serves again where it is asked for with an equal key: `hwpass.model.fingerprint` makes one of a model. One
    of each kind is kept, since a walk over a large model is large itself. `computed` and `reused` count what was done.
    """

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.computed: Counter[str] = Counter()
        self.reused: Counter[str] = Counter()

    def __repr__(self) -> str:
        done = [f"{name}: {n} computed, {self.reused[name]} reused" for name, n in sorted(self.computed.items())]
        return brief(self, *done)

    def found(self, name: str, key: Hashable, fit: Callable[[Any], bool] | None = None) -> Any:
        """The kept result of that key, None where there is none that still holds and that `fit` accepts."""
        entry = self.entries.get(name)
        if entry is None or entry.key != key or not entry.holds() or not (fit is None or fit(entry.value)):
            return None
        self.reused[name] += 1
        with span(f"{name}, kept from before"):
            return entry.value

    def keep(self, name: str, key: Hashable, value: T, holds: Callable[[], bool] = lambda: True) -> T:
        """Enter a result that was just computed."""
        self.computed[name] += 1
        self.enter(name, key, value, holds)
        return value

    def enter(self, name: str, key: Hashable, value: Any, holds: Callable[[], bool] = lambda: True) -> None:
        """Enter a result without counting it."""
        self.entries[name] = Entry(key, value, holds)

    def take_over(self, name: str) -> None:
        """Count a result as used again that something else has kept."""
        self.reused[name] += 1

    def changed(self, preserved: Collection[str], renamed: Callable[[Hashable], Hashable | None]) -> None:
        """A pass changed the model: what it does not preserve goes; what it preserves is known of the new model.

        `renamed` gives the key of an entry for the new model, None where it cannot be told.
        """
        for name, entry in list(self.entries.items()):
            if name not in ANALYSES:  # what depends on no model
                continue
            key = renamed(entry.key) if name in preserved else None
            if key is None:
                del self.entries[name]
            else:
                self.entries[name] = Entry(key, entry.value, entry.holds)
