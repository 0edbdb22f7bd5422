"""What a run is asked for besides its passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hwpass.analyses import Analyses
from hwpass.figures import brief, counted
from hwpass.runtime.threads import check_threads

if TYPE_CHECKING:
    from hwpass.cost_models import Target
    from hwpass.runtime.calibration import Calibration
    from hwpass.runtime.inputs import StatedInput
    from hwpass.runtime.sessions import ModelLike


@dataclass
class Settings:
    """A target, data, threads, a seed, and who is told of progress and warnings.

    `original` is what the verdicts compare with, `stated` what the user says of inputs, by name. Channels are chosen
    and weights fitted on `calibration`; `apart` are samples that nothing but the verdicts sees.
    """

    target: Target | None = None
    original: ModelLike | None = None
    calibration: Calibration | None = None
    apart: Calibration | None = None
    stated: Mapping[str, StatedInput] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)  # the largest sizes of dynamic axes that costs are for
    threads: int = 1
    seed: int = 0
    force: bool = False
    progress: Callable[[str], None] = lambda text: None
    warnings: list[str] = field(default_factory=list)
    analyses: Analyses = field(default_factory=Analyses)  # of the models of the run

    def __post_init__(self) -> None:
        check_threads(self.threads)

    def __repr__(self) -> str:
        target = "no target" if self.target is None else self.target.name
        data = "no data" if self.calibration is None else repr(self.calibration)
        force = "force" if self.force else ""
        warnings = counted(len(self.warnings), "warning") if self.warnings else ""
        return brief(self, target, data, counted(self.threads, "thread"), f"seed {self.seed}", force, warnings)

    def warn(self, text: str) -> None:
        """Add a warning to the report, once."""
        if text not in self.warnings:
            self.warnings.append(text)
