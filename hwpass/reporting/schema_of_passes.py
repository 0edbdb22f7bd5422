"""What a report says of its passes and of what was asked: parts of `hwpass.reporting.schema`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Part(BaseModel):
    """A part of a report: nothing but what is stated, and no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True, ser_json_inf_nan="null")


class TimedPart(Part):
    """A part of what a pass did; parts of one name are taken together."""

    name: str
    seconds: float
    count: int = Field(description="how often it was done")
    parts: list[TimedPart] = Field(default_factory=list, description="its own parts, in the order of their beginning")


class PassRecord(Part):
    """One pass of the pipeline."""

    name: str
    seconds: float
    changed: bool
    status: Literal["ran", "changed", "skipped"] = "ran"
    skipped: str | None = Field(default=None, description="why it did not run; null where it ran")
    parts: list[TimedPart] = Field(default_factory=list, description="what its seconds went to, as a tree")

    @property
    def outcome(self) -> str:
        """Whether it changed the model, in a word, or why it did not run."""
        return f"did not run: {self.skipped}" if self.skipped is not None else "yes" if self.changed else "no"


class MeasuredPart(Part):
    """The model as it was given, or after a pass that changed it."""

    after: str = Field(description="the pass, as text; `as given` for the first")
    params: int
    size_bytes: int
    macs: float | None = None
    activation_bytes: float | None = Field(
        default=None, description="of all activations of an inference between kernels, in the target's formats"
    )
    peak_activation_bytes: float | None = Field(default=None, description="most bytes of them live at once")
    latency_ms: float | None = Field(default=None, description="predicted")
    rel_l2: float | None = Field(
        default=None,
        description="of the worst output, against the original, on 64 samples; null where that was not asked for",
    )


class Asked(Part):
    """An option of the run that was given."""

    value: str
    origin: str = Field(default="call", description="command line, the file that says so, or call from Python")
