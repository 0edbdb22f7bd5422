"""What a score is: how much each channel of a group matters, and what removing channels costs; and the registry."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, TypeAlias, TypeVar

from hwpass import plugins
from hwpass.errors import UsageError, in_words, option
from hwpass.figures import shown
from hwpass.runtime.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hwpass.cost_models.work import Floats
    from hwpass.coupling.groups import Coupling
    from hwpass.runtime.calibration import Calibration

Importance: TypeAlias = "list[Floats]"  # per group, [width]


@dataclass(frozen=True)
class Seen:
    """What a score may look at.

    `data` are the user's inputs or those that stand in for them, None where there are none. Of `settings` a score takes
    threads, seed and progress. `gone` marks components that are zero already.
    """

    coupling: Coupling
    data: Calibration | None = None
    settings: Settings = field(default_factory=Settings)
    gone: NDArray[np.bool_] | None = None


class Score(ABC):
    """How much channels matter. A new one is one class under `@register`, or one that an entry point names.

    `summary` is one line for people. `needs_data` refuses a run without inputs. `makes_inputs` has inputs made up where
    none are given, and weights refitted on them. `measured` says that curves come from data, so that they are worth
    taking again on the way to a budget.
    """

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    needs_data: ClassVar[bool] = False
    makes_inputs: ClassVar[bool] = False
    measured: ClassVar[bool] = False

    @abstractmethod
    def importance(self, seen: Seen) -> Importance:
        """One number of at least zero per channel of every group, [width] each: the least goes first."""

    def curves(self, seen: Seen, importance: Importance) -> list[Floats]:
        """What removing the n least important channels of a group costs, n = 0 .. width: [width + 1] per group."""
        from hwpass.planning.share_curves import loss_curves

        return loss_curves(seen.coupling, importance)

    def judged(self, seen: Seen) -> tuple[list[Floats], Importance]:
        """Curves and importance; a channel that nobody reads has none."""
        import numpy as np

        from hwpass.coupling.redundant_channels import unread

        idle = unread(seen.coupling)
        groups = seen.coupling.groups
        found = [np.where(idle[g.components], 0.0, own) for g, own in zip(groups, self.importance(seen), strict=True)]
        return self.curves(seen, found), found


def _names(cls: type[Score]) -> tuple[str, ...]:
    if not re.fullmatch(r"[A-Za-z][\w-]*", cls.name, re.ASCII):
        raise ValueError(f"{cls.__name__}.name {cls.name!r} is no name for a score: write letters, digits, - and _")
    return (cls.name,)


_SCORES: plugins.Classes[type[Score]] = plugins.Classes(
    plugins.Kind(Score, "hwpass.planning.score.Score", "score", "scores"),
    "hwpass.planning.scores",
    plugins.SCORES,
    _names,
)
_S = TypeVar("_S", bound=type[Score])


def register(cls: _S) -> _S:
    """Class decorator: enter a score under its name. Raises TypeError for what is none, ValueError for a bad name."""
    _SCORES.register(cls)
    return cls


def scores() -> dict[str, type[Score]]:
    """Every score by name: those of `hwpass.planning.scores`, and those of installed packages (entry points
    `hwpass.scores`)."""
    return _SCORES.known()


def choices() -> list[tuple[str, str]]:
    """Name and summary of every score."""
    return [(name, cls.summary) for name, cls in scores().items()]


def score_named(name: str) -> Score:
    """The score of a name. Raises UsageError, which lists those there are."""
    known = scores()
    if name not in known:
        why = plugins.why_not(plugins.SCORES, name)
        raise UsageError(f"{option('score', shown(name))}: no such score; choose {', '.join(known)}{why}")
    return known[name]()


def makes_inputs(name: str) -> bool:
    """Whether a score has inputs made up where none are given; of an unknown name others complain."""
    known = scores()
    return name in known and known[name].makes_inputs


def judge(name: str, seen: Seen) -> tuple[list[Floats], Importance]:
    """Per group a loss curve [width + 1] and an importance per channel [width]. Raises UsageError."""
    import numpy as np

    score = score_named(name)
    if score.needs_data and seen.data is None:
        raise without_data(name)
    curves, found = score.judged(seen)
    for what, rows, more in (("importance", found, 0), ("curves", curves, 1)):
        for group, row in zip(seen.coupling.groups, rows, strict=True):
            if np.shape(row) != (group.width + more,) or np.isnan(row).any():
                wanted = f"{group.width + more} numbers"
                raise UsageError(f"{option('score', name)}: {what} of group {group.name} are not {wanted}")
    return curves, found


def importance(coupling: Coupling, name: str, seed: int = 0) -> Importance:
    """One importance per channel of every group, by a score that needs no data. Raises UsageError."""
    return judge(name, Seen(coupling, settings=Settings(seed=seed)))[1]


def without_data(score: str) -> UsageError:
    """What a score that looks at activations says where there are no inputs."""
    with_data = in_words("--calib FILE.npz or a folder", "calib")
    return UsageError(f"{option('score', score)} looks at activations: give inputs with {with_data}")
