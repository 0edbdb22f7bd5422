"""Hardware-aware structured pruning of ONNX models: a target and a budget in, a faster and proven model out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from hwpass.version import __version__

# In a checkout, two rooms are links to folders beside this one. Where links come out as text files (Windows, a zip
# download), they are found there all the same.
_BESIDE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if not os.path.isdir(os.path.join(__path__[0], "passes")) and os.path.isdir(os.path.join(_BESIDE, "passes")):
    __path__.append(_BESIDE)

if TYPE_CHECKING:
    from hwpass.context import Context
    from hwpass.errors import BudgetError, HwpassError, InputError, UsageError, VerdictError
    from hwpass.instrument import Instrument
    from hwpass.manager import Pass, PassManager, PassResult
    from hwpass.model.model import Model
    from hwpass.options import RunOptions
    from hwpass.planning.plan import Plan
    from hwpass.workflows.bisect import bisect
    from hwpass.workflows.export import export
    from hwpass.workflows.job import Result
    from hwpass.workflows.replay import replay
    from hwpass.workflows.run import load, run
    from hwpass.workflows.sweep import sweep

_HOMES = {
    "Result": "workflows.job",
    "export": "workflows.export",
    "bisect": "workflows.bisect",
    "load": "workflows.run",
    "replay": "workflows.replay",
    "run": "workflows.run",
    "sweep": "workflows.sweep",
    "Model": "model.model",
    "Plan": "planning.plan",
    "RunOptions": "options",
    "Context": "context",
    "Instrument": "instrument",
    "Pass": "manager",
    "PassManager": "manager",
    "PassResult": "manager",
    "HwpassError": "errors",
    "BudgetError": "errors",
    "InputError": "errors",
    "UsageError": "errors",
    "VerdictError": "errors",
}

__all__ = [
    "BudgetError",
    "Context",
    "HwpassError",
    "InputError",
    "Instrument",
    "Model",
    "Pass",
    "PassManager",
    "PassResult",
    "Plan",
    "Result",
    "RunOptions",
    "UsageError",
    "VerdictError",
    "__version__",
    "bisect",
    "export",
    "load",
    "replay",
    "run",
    "sweep",
]


def __getattr__(name: str) -> Any:
    # Importing the package stays cheap: ONNX Runtime is loaded when something is used.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"hwpass.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'hwpass' has no attribute {name!r}")
