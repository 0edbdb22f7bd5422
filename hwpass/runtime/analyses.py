"""What passes find out about a model as it stands, kept until one of them changes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from hwpass.figures import brief

T = TypeVar("T")


class Analyses:
    """Analyses of one model object, by name and by what else they depend on; those of another model push them out.

    An analysis is about the object: a copy of a model has none yet. Whoever edits the model in place says so with
    `forget`. `made` and `used_again` count, by name.
    """

    def __init__(self) -> None:
        self.made: Counter[str] = Counter()
        self.used_again: Counter[str] = Counter()
        self._model: object | None = None
        self._found: dict[tuple[str, Hashable], Any] = {}

    def __repr__(self) -> str:
        return brief(self, *(f"{name} {self.made[name]} times" for name in sorted(self.made)))

    def of(self, model: object, name: str, key: Hashable, make: Callable[[], T]) -> T:
        """An analysis of a model: the one that is kept, or what `make` gives."""
        if self._model is not model:
            self.forget()
            self._model = model
        if (name, key) in self._found:
            self.used_again[name] += 1
            return self._found[name, key]  # type: ignore[no-any-return]
        found = make()
        self.made[name] += 1
        self._found[name, key] = found
        return found

    def forget(self, preserved: frozenset[str] = frozenset()) -> None:
        """The model changed: only analyses that are `preserved`, by name, still hold."""
        self._found = {key: found for key, found in self._found.items() if key[0] in preserved}
        if not self._found:
            self._model = None
