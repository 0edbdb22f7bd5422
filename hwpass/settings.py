"""What a run is asked for besides its passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from hwpass.calibration import Calibration
from hwpass.cost_models import Target
from hwpass.sessions import ModelLike


@dataclass
class Settings:
    """A target, data, threads, a seed, and who is told of progress and warnings.

    `original` is what the verdicts compare with.
    """

    target: Target | None = None
    original: ModelLike | None = None
    calibration: Calibration | None = None
    threads: int = 1
    seed: int = 0
    force: bool = False
    progress: Callable[[str], None] = lambda text: None
    warnings: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        """Add a warning to the report, once."""
        if text not in self.warnings:
            self.warnings.append(text)
