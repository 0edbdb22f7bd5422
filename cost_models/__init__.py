"""Cost models: latency and energy of fused kernels on a hardware target.

model = cost_model(load_target("server-cpu"))
seconds = model.latency(work)  # [plans, kernels]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hwpass.cost_models.target import (
    FUSION_CLASSES,
    Energy,
    Fallback,
    Footprint,
    MemoryLevel,
    Target,
)
from hwpass.cost_models.target_files import find_targets, load_target, parse_target, target_names

if TYPE_CHECKING:
    from hwpass.cost_models.base import CostModel, Figures, cost_model, model_names, register

__all__ = [
    "FUSION_CLASSES",
    "CostModel",
    "Energy",
    "Fallback",
    "Figures",
    "Footprint",
    "MemoryLevel",
    "Target",
    "cost_model",
    "find_targets",
    "load_target",
    "model_names",
    "parse_target",
    "register",
    "target_names",
]


def __getattr__(name: str) -> Any:
    # A target is data: what computes with it, and NumPy, are loaded when something is computed.
    if name in __all__:
        from hwpass.cost_models import base

        return getattr(base, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
