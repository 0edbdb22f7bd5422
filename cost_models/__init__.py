"""Cost models: latency and energy of fused kernels on a hardware target.

model = cost_model(load_target("server-cpu"))
seconds = model.latency(work)  # [plans, kernels]
"""

from hwpass.cost_models.base import CostModel, Figures, cost_model, model_names, register
from hwpass.cost_models.target import (
    FUSION_CLASSES,
    Energy,
    MemoryLevel,
    Target,
    load_target,
    parse_target,
    target_names,
)

__all__ = [
    "FUSION_CLASSES",
    "CostModel",
    "Energy",
    "Figures",
    "MemoryLevel",
    "Target",
    "cost_model",
    "load_target",
    "model_names",
    "parse_target",
    "register",
    "target_names",
]
