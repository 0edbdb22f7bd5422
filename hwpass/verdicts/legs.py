"""What a proof is made of: comparisons of neighbours in a chain of models, and what they show together."""

from __future__ import annotations

from dataclasses import dataclass

from hwpass.figures import brief, counted
from hwpass.verdicts.states import State

#: The name of legs that prove the structure, and leave values to fidelity.
FORMATS = "formats"


@dataclass(frozen=True)
class Leg:
    """One comparison of the chain; `note` says why it failed, or what it could not show."""

    name: str
    sides: str
    state: State
    max_abs: float = 0.0
    max_rel: float = 0.0
    note: str | None = None


@dataclass(frozen=True)
class Proof:
    """The legs in order, and one line for each part of the chain that no leg covers."""

    legs: tuple[Leg, ...]
    missing: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    tolerance: float = 0.0

    def __repr__(self) -> str:
        return brief(self, self.state, counted(len(self.legs), "leg"), *self.missing[:1])

    @property
    def state(self) -> State:
        """Failed when a leg failed; passed when every leg passed, none is missing, and each was about values too."""
        if any(leg.state == "failed" for leg in self.legs):
            return "failed"
        return "passed" if self.proved and self.exact else "not judged"

    @property
    def proved(self) -> bool:
        """Whether every leg passed and none is missing: of a model in other number formats, its structure."""
        return {leg.state for leg in self.legs} == {"passed"} and not self.missing

    @property
    def exact(self) -> bool:
        """Whether the legs are about values; not where number formats changed on the way."""
        return all(leg.name != FORMATS for leg in self.legs)

    @property
    def max_abs(self) -> float:
        """The largest difference of any leg."""
        return max((leg.max_abs for leg in self.legs), default=0.0)

    @property
    def max_rel(self) -> float:
        """The largest difference of any leg over the magnitude of what was compared."""
        return max((leg.max_rel for leg in self.legs), default=0.0)

    @property
    def reason(self) -> str | None:
        """Why it is not passed, in one line."""
        for state in ("failed", "not judged"):
            for leg in self.legs:
                if leg.state == state:
                    return f"{leg.sides}: {leg.note}"
        if self.missing:
            return self.missing[0]
        changed = next((leg for leg in self.legs if leg.name == FORMATS), None)
        return None if changed is None else f"structure proved ({changed.note}); values are judged by fidelity alone"

    def __str__(self) -> str:
        if self.state == "passed":
            return f"exact: largest relative difference {self.max_rel:.2g} (tolerance {self.tolerance:g})"
        return f"{'not exact' if self.state == 'failed' else 'not proved'}: {self.reason}"
