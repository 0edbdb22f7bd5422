"""What every fused kernel of a model costs on a target: `hwpass profile`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from hwpass.cost.budgets import hard_limits, misfits
from hwpass.cost.prediction import Cost
from hwpass.cost.stairs import bounds, next_stairs, peak_share
from hwpass.cost_models import Target, load_target
from hwpass.coupling.walk import dynamic_dimensions
from hwpass.files.temporary import TemporaryFolder
from hwpass.model.model import Model
from hwpass.model.sources import Source
from hwpass.proto.external import TrustedPath
from hwpass.reporting.profile import KernelCost, Measured, Profile, Stair, render_profile
from hwpass.runners.runner import TIMEOUT, Runner, runner_for
from hwpass.runtime.dim_ranges import dim_ranges
from hwpass.runtime.threads import check_threads
from hwpass.workflows.inspect import coupled

__all__ = ["KernelCost", "Measured", "Profile", "Stair", "profile_model", "render_profile"]


def profile_model(
    source: Source | Model,
    target: str | os.PathLike[str] | Target,
    *,
    measure: bool = False,
    threads: int = 1,
    dtype: str | None = None,
    dim: str | Iterable[str] = (),
    runner: str | Runner = "onnxruntime",
    timeout: float = TIMEOUT,
    allow_external: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> Profile:
    """Predict the cost of each kernel after constant folding and batch-norm fusion, at batch 1.

    `dtype` is the number format to price the model in, `dim` the sizes of dynamic axes (`N=8`, `N=1..8`): figures are
    those of the largest. With `measure` the model as given is also timed by a runner, see `hwpass.cost.bench`. Raises
    UsageError or InputError.
    """
    check_threads(threads)
    where = runner_for(runner) if measure else None
    chosen = load_target(target).variant(dtype, threads if threads > 1 else None)
    model = source if isinstance(source, Model) else Model.load(source, allow_external=allow_external)
    sizes = dim_ranges(dim, dynamic_dimensions(model.graph))
    cost = Cost(coupled(model, progress, dims={n: high for n, (_, high) in sizes.items()}), chosen)
    least = None
    if any(low < high for low, high in sizes.values()):
        smallest = coupled(model, progress, dims={n: low for n, (low, _) in sizes.items()})
        least = Cost(smallest, chosen).base["latency"] * 1e3
    progress("predicting")
    kernels, held = _kernels(cost)
    interval = cost.interval(cost.dense)
    base = cost.base
    return Profile(
        schema=1,
        model=model.path or "model",
        sha256=model.sha256,
        target=chosen.name,
        dtype=dtype,
        threads=chosen.threads,
        dims={name: high for name, (_, high) in sizes.items()},
        latency_ms=base["latency"] * 1e3,
        low_ms=None if interval is None else interval[0] * 1e3,
        high_ms=None if interval is None else interval[1] * 1e3,
        latency_at_least_ms=least,
        energy_mj=base["energy"] * 1e3,
        macs=round(base["macs"]),
        size_bytes=round(base["size"]),
        peak_memory_bytes=round(base["memory"]),
        ram_bytes=round(base["ram"]),
        flash_bytes=round(base["flash"]),
        peak_kernel=kernels[int(np.argmax(held))].name if len(kernels) and held.any() else "",
        notes=[*cost.notes(), *misfits(cost.base, hard_limits(cost))],
        kernels=kernels,
        stairs=[
            Stair(group=group.name, width=group.width, faster_at=at)
            for group, at in zip(cost.kernels.coupling.groups, next_stairs(cost), strict=True)
        ],
        measured=None if where is None else _measured(model, threads, where, timeout, progress),
    )


def _kernels(cost: Cost) -> tuple[list[KernelCost], np.ndarray]:
    """The kernels of the dense model, and the bytes of activations that live while each runs, [K]."""
    work = cost.work(cost.dense)
    seconds, joules = cost.model.latency(work), cost.model.energy(work)
    traffic = (work.read + work.written + work.weights)[0]
    held = cost.kernels.live.held(cost.kernels.values(cost.dense[None, :]))[0]
    bound, share = bounds(cost.model.model, work, seconds), peak_share(cost.model.model, work, seconds)
    total = float(seconds.sum())
    found = [
        KernelCost(
            name=kernel.name,
            ops=kernel.ops,
            kind=kernel.kind,
            macs=round(float(work.macs[0][i])),
            latency_ms=float(seconds[0, i]) * 1e3,
            share=round(float(seconds[0, i]) / total, 6) if total else 0.0,
            bound=bound[i],
            peak_share=round(float(share[i]), 4),
            energy_mj=float(joules[0, i]) * 1e3,
            traffic_bytes=round(float(traffic[i])),
            live_bytes=round(float(held[i])),
            on_host=bool(cost.model.away[i]),
        )
        for i, kernel in enumerate(cost.kernels.kernels)
    ]
    return found, held


def _measured(model: Model, threads: int, runner: Runner, timeout: float, progress: Callable[[str], None]) -> Measured:
    from hwpass.cost.bench import bench

    with TemporaryFolder() as folder:
        path = Path(model.path)
        if not path.is_file() or isinstance(model.source, TrustedPath):
            path = folder / "model.onnx"
            model.save(path)
        timing = bench(
            [path],
            threads=threads,
            runner=runner,
            timeout=timeout,
            progress=lambda done, of: progress(f"measuring, session {done} of {of}"),
        )[0]
    return Measured(
        median_ms=timing.median_ms,
        low_ms=timing.low_ms,
        high_ms=timing.high_ms,
        threads=threads,
        runner=str(runner),
    )
