"""What every fused kernel of a model costs on a target: `hwpass profile`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console

from hwpass.cost.prediction import Cost
from hwpass.cost_models import Target, load_target
from hwpass.errors import in_words
from hwpass.figures import brief, counted, human_bytes, human_count, human_energy, human_seconds
from hwpass.files.temporary import TemporaryFolder
from hwpass.model.model import Model
from hwpass.model.sources import Source
from hwpass.node_names import Printable, short_path, shortened
from hwpass.proto.external import TrustedPath
from hwpass.reporting.tables import ROWS, print_line, print_table
from hwpass.runtime.threads import check_threads
from hwpass.workflows.inspect import coupled

__all__ = ["KernelCost", "Measured", "Profile", "profile_model", "render_profile"]


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
    energy_mj: float
    traffic_bytes: int = Field(description="activations read and written, and constants read, each once")


class Measured(_Part):
    """The latency of the whole model in ONNX Runtime on this machine, which need not be the target."""

    median_ms: float
    low_ms: float
    high_ms: float
    threads: int


class Profile(_Part):
    """What `hwpass profile --json` writes. Kernels are in the order of the schedule."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    model: Printable
    sha256: str
    target: str
    latency_ms: float
    energy_mj: float
    macs: int
    size_bytes: int
    peak_memory_bytes: int = Field(description="constants, and the largest sum of activations live at a time")
    kernels: list[KernelCost]
    measured: Measured | None = None

    def __repr__(self) -> str:
        kernels = counted(len(self.kernels), "kernel")
        return brief(self, short_path(self.model), self.target, human_seconds(self.latency_ms / 1e3), kernels)


def profile_model(
    source: Source | Model,
    target: str | os.PathLike[str] | Target,
    *,
    measure: bool = False,
    threads: int = 1,
    allow_external: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> Profile:
    """Predict the cost of each kernel after constant folding and batch-norm fusion, at batch 1.

    With `measure` the model as given is also timed in ONNX Runtime. Raises UsageError or InputError.
    """
    check_threads(threads)
    chosen = load_target(target)
    model = source if isinstance(source, Model) else Model.load(source, allow_external=allow_external)
    coupling = coupled(model, progress)
    progress("predicting")
    cost = Cost(coupling, chosen)
    work = cost.work(cost.dense)
    seconds, joules = cost.model.latency(work)[0], cost.model.energy(work)[0]
    traffic = (work.read + work.written + work.weights)[0]
    total = float(seconds.sum())
    kernels = [
        KernelCost(
            name=kernel.name,
            ops=kernel.ops,
            kind=kernel.kind,
            macs=round(float(work.macs[0][i])),
            latency_ms=float(seconds[i]) * 1e3,
            share=round(float(seconds[i]) / total, 6) if total else 0.0,
            energy_mj=float(joules[i]) * 1e3,
            traffic_bytes=round(float(traffic[i])),
        )
        for i, kernel in enumerate(cost.kernels.kernels)
    ]
    return Profile(
        schema=1,
        model=model.path or "model",
        sha256=model.sha256,
        target=chosen.name,
        latency_ms=total * 1e3,
        energy_mj=float(joules.sum()) * 1e3,
        macs=round(cost.base["macs"]),
        size_bytes=round(cost.base["size"]),
        peak_memory_bytes=round(cost.base["memory"]),
        kernels=kernels,
        measured=_measured(model, threads, progress) if measure else None,
    )


def _measured(model: Model, threads: int, progress: Callable[[str], None]) -> Measured:
    from hwpass.cost.bench import bench

    with TemporaryFolder() as folder:
        path = Path(model.path)
        if not path.is_file() or isinstance(model.source, TrustedPath):
            path = folder / "model.onnx"
            model.save(path)
        timing = bench(
            [path], threads=threads, progress=lambda done, of: progress(f"measuring, session {done} of {of}")
        )[0]
    return Measured(median_ms=timing.median_ms, low_ms=timing.low_ms, high_ms=timing.high_ms, threads=threads)


def render_profile(profile: Profile, console: Console) -> None:
    """Print the totals and the kernels that cost anything, in the order of the schedule."""
    print_line(console, f"{short_path(profile.model)} for {profile.target}", "bold")
    print_line(
        console,
        f"predicted {human_seconds(profile.latency_ms / 1e3)}, {human_energy(profile.energy_mj)},"
        f" {human_count(profile.macs)} MACs, {human_bytes(profile.size_bytes)} of weights,"
        f" {human_bytes(profile.peak_memory_bytes)} at the peak",
    )
    if profile.measured is not None:
        found = profile.measured
        low, middle, high = (human_seconds(ms / 1e3) for ms in (found.low_ms, found.median_ms, found.high_ms))
        ratio = profile.latency_ms / found.median_ms
        threads = f"{found.threads} thread{'' if found.threads == 1 else 's'}"
        print_line(
            console,
            f"measured {middle} (sessions {low} to {high}) in ONNX Runtime on this machine, {threads}",
        )
        print_line(
            console,
            f"predicted over measured: {ratio:.2f}; this compares two machines unless this one is a {profile.target}",
        )
    costly = [kernel for kernel in profile.kernels if kernel.kind != "free"]
    names = shortened([kernel.name for kernel in costly], max(20, console.width // 3))
    rows = [
        (
            names[k.name], human_seconds(k.latency_ms / 1e3), f"{k.share:.1%}", human_energy(k.energy_mj),
            human_count(k.macs), human_bytes(k.traffic_bytes), k.ops,
        )
        for k in _dearest(costly)
    ]  # fmt: skip
    print_line(console, "")
    headings = ("kernel", "latency", "share", "energy", "MACs", "traffic", "operators")
    print_table(console, headings, rows, "lrrrrrl")
    if len(costly) > len(rows):
        rest = sum(k.share for k in costly) - sum(k.share for k in _dearest(costly))
        more = in_words("--json", "its JSON")
        print_line(console, f"and {len(costly) - len(rows)} cheaper ones, {rest:.1%} together (see {more})", "dim")


def _dearest(kernels: list[KernelCost]) -> list[KernelCost]:
    """The kernels that take most of the latency, in the order of the schedule."""
    places = sorted(range(len(kernels)), key=lambda i: -kernels[i].latency_ms)[:ROWS]
    return [kernels[i] for i in sorted(places)]
