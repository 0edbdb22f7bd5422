"""A report with something in every part, and as it is shown."""

from __future__ import annotations

import io

from rich.console import Console

from hwpass.reporting.schema import (
    Costs,
    ExactnessVerdict,
    FidelityVerdict,
    Frozen,
    GroupChange,
    MetricVerdict,
    ModelInfo,
    PassRecord,
    Ratios,
    Report,
    Verdicts,
)
from hwpass.reporting.terminal import show
from hwpass.verdicts.findings import MetricFound

BEFORE = Costs(
    latency_ms=15.5,
    energy_mj=5,
    macs=4_089_184_256,
    params=25_507_944,
    size_bytes=102_057_997,
    peak_memory_bytes=2**23,
)
AFTER = Costs(
    latency_ms=9.3,
    energy_mj=3,
    macs=2_000_000_000,
    params=12_000_000,
    size_bytes=51_028_998,
    peak_memory_bytes=2**22,
)


def report(**changes: object) -> Report:
    values: dict[str, object] = {
        "hwpass": "0.1",
        "model": ModelInfo(path="m.onnx", sha256="ab" * 32, nodes=122, opset=17),
        "target": "mobile-cpu",
        "budget": {"latency": "0.6x", "energy": "5mJ"},
        "before": BEFORE,
        "after": AFTER,
        "ratio": Ratios.of(BEFORE, AFTER),
        "verdicts": Verdicts(
            exactness=ExactnessVerdict(passed=True, state="passed", max_abs=1e-6, max_rel=2e-7),
            fidelity=FidelityVerdict(passed=False, state="failed", outputs={"y": {"top1": 0.98, "cosine": 0.999}}),
            metric=MetricVerdict.of(MetricFound("a:b", 0.9, 0.89, 0.02)),
        ),
        "groups": [
            GroupChange(name="g1", before=64, after=48, loss=0.1, latency_gain_ms=1.5, layers=["a", "b", "c", "d"]),
            GroupChange(name="g2", before=8, after=8),
        ],
        "frozen": [Frozen(node="out", reason="graph output"), Frozen(node="[bold]x", reason="graph output")],
        "passes": [PassRecord(name="fold", seconds=0.5, changed=True)],
        "seconds": 3.25,
        "warnings": ["be careful"],
    }
    return Report.model_validate({**values, **changes})


def text(item: Report, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    show(item, console)
    stream = console.file
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()
