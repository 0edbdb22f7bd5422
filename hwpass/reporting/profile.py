"""What every fused kernel of a model costs on a target, as people and programs read it: `hwpass profile`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console

from hwpass.errors import in_words
from hwpass.figures import brief, counted, human_bytes, human_count, human_energy, human_seconds
from hwpass.node_names import Printable, short_path, shortened
from hwpass.reporting.tables import ROWS, print_line, print_table


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KernelCost(_Part):
    """The predicted cost of one kernel: the operators that the target's runtime runs as one."""

    name: str = Field(description="of its first node")
    ops: str
    kind: str
    macs: int
    latency_ms: float
    share: float = Field(description="of the model's latency, 0 to 1")
    bound: str = Field(description="what it waits for: compute, memory or overhead; empty where it costs nothing")
    peak_share: float = Field(description="of the peak rate, 0 to 1; the rest is padding, waiting and overhead")
    energy_mj: float
    traffic_bytes: int = Field(description="activations read and written, and constants read, each once")
    live_bytes: int = Field(description="activations that live while it runs")
    on_host: bool = Field(description="whether the target hands it to its host")


class Stair(_Part):
    """The next narrower width of a group with which the model is predicted faster."""

    group: str
    width: int
    faster_at: int | None = Field(description="None where no narrower width nearby is faster")


class Measured(_Part):
    """The latency of the whole model in a runtime, which need not be that of the target."""

    median_ms: float
    low_ms: float
    high_ms: float
    threads: int
    runner: str = Field(default="onnxruntime", description="what ran it: `onnxruntime` is this machine's processor")


class Profile(_Part):
    """What `hwpass profile --json` writes. Kernels are in the order of the schedule."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    model: Printable
    sha256: str
    target: str
    dtype: str | None = Field(default=None, description="the number format that was asked for")
    threads: int = 1
    dims: dict[str, int] = Field(default_factory=dict, description="sizes of dynamic axes that were asked for")
    latency_ms: float
    low_ms: float | None = Field(default=None, description="the low end of the 90 % interval")
    high_ms: float | None = None
    latency_at_least_ms: float | None = Field(default=None, description="at the smallest sizes that were asked for")
    energy_mj: float
    macs: int
    size_bytes: int
    peak_memory_bytes: int = Field(description="constants, and the largest sum of activations live at a time")
    ram_bytes: int = 0
    flash_bytes: int = 0
    peak_kernel: str = Field(default="", description="where most activations live")
    notes: list[str] = Field(default_factory=list)
    kernels: list[KernelCost]
    stairs: list[Stair] = Field(default_factory=list)
    measured: Measured | None = None

    def __repr__(self) -> str:
        kernels = counted(len(self.kernels), "kernel")
        return brief(self, short_path(self.model), self.target, human_seconds(self.latency_ms / 1e3), kernels)


def render_profile(profile: Profile, console: Console) -> None:
    """Print the totals and the kernels that cost anything, in the order of the schedule."""
    asked = [text for text in (profile.dtype, *(f"{n}={size}" for n, size in profile.dims.items())) if text]
    print_line(console, f"{short_path(profile.model)} for {profile.target}" + "".join(f", {a}" for a in asked), "bold")
    print_line(
        console,
        f"predicted {latency(profile)}, {human_energy(profile.energy_mj)},"
        f" {human_count(profile.macs)} MACs, {human_bytes(profile.size_bytes)} of weights,"
        f" {human_bytes(profile.peak_memory_bytes)} at the peak"
        + (f" (in {shortened([profile.peak_kernel], 40)[profile.peak_kernel]})" if profile.peak_kernel else ""),
    )
    if profile.latency_at_least_ms is not None:
        print_line(console, f"at the smallest sizes {human_seconds(profile.latency_at_least_ms / 1e3)}")
    for note in profile.notes:
        print_line(console, note, "yellow")
    _render_measured(profile, console)
    _render_kernels(profile, console)
    _render_stairs(profile, console)


def latency(profile: Profile) -> str:
    """The latency with its interval, as in `5.1 ms (4.6 to 5.7)`."""
    text = human_seconds(profile.latency_ms / 1e3)
    if profile.low_ms is None or profile.high_ms is None:
        return text
    return f"{text} ({human_seconds(profile.low_ms / 1e3)} to {human_seconds(profile.high_ms / 1e3)})"


def _render_measured(profile: Profile, console: Console) -> None:
    if profile.measured is None:
        return
    found = profile.measured
    low, middle, high = (human_seconds(ms / 1e3) for ms in (found.low_ms, found.median_ms, found.high_ms))
    ratio = profile.latency_ms / found.median_ms
    threads = f"{found.threads} thread{'' if found.threads == 1 else 's'}"
    where = "in ONNX Runtime on this machine" if found.runner == "onnxruntime" else f"by {found.runner}"
    print_line(console, f"measured {middle} (sessions {low} to {high}) {where}, {threads}")
    print_line(
        console,
        f"predicted over measured: {ratio:.2f}; this compares two machines unless it ran on a {profile.target}",
    )


def _render_kernels(profile: Profile, console: Console) -> None:
    costly = [kernel for kernel in profile.kernels if kernel.kind != "free"]
    names = shortened([kernel.name for kernel in costly], max(20, console.width // 4))
    rows = [
        (
            names[k.name], human_seconds(k.latency_ms / 1e3), f"{k.share:.1%}", "host" if k.on_host else k.bound,
            f"{k.peak_share:.0%}" if k.macs else "-", human_energy(k.energy_mj), human_count(k.macs),
            human_bytes(k.traffic_bytes), human_bytes(k.live_bytes), k.ops,
        )
        for k in _dearest(costly)
    ]  # fmt: skip
    print_line(console, "")
    headings = ("kernel", "latency", "share", "bound", "of peak", "energy", "MACs", "traffic", "live", "operators")
    print_table(console, headings, rows, "lrrlrrrrrl")
    if len(costly) > len(rows):
        rest = sum(k.share for k in costly) - sum(k.share for k in _dearest(costly))
        more = in_words("--json", "its JSON")
        print_line(console, f"and {len(costly) - len(rows)} cheaper ones, {rest:.1%} together (see {more})", "dim")


def _render_stairs(profile: Profile, console: Console) -> None:
    """How many channels have to go before anything gets faster, by how often that is so."""
    steps: dict[int, int] = {}
    for stair in profile.stairs:
        if stair.faster_at is not None:
            steps[stair.width - stair.faster_at] = steps.get(stair.width - stair.faster_at, 0) + 1
    if not steps:
        return
    common = sorted(steps.items(), key=lambda pair: -pair[1])[:4]
    text = ", ".join(f"{step} in {counted(count, 'group')}" for step, count in common)
    more = in_words("--json", "its JSON")
    print_line(console, f"channels that go before the model gets faster: {text} (each group's in {more})", "dim")


def _dearest(kernels: list[KernelCost]) -> list[KernelCost]:
    """The kernels that take most of the latency, in the order of the schedule."""
    places = sorted(range(len(kernels)), key=lambda i: -kernels[i].latency_ms)[:ROWS]
    return [kernels[i] for i in sorted(places)]
