"""The third verdict: a figure of merit of the user's own, `package.module:function`."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwpass.errors import InputError, UsageError
from hwpass.sessions import ModelLike, open_session, release_memory, run_session

if TYPE_CHECKING:
    from hwpass.manager import Context

Predict = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
"""Runs the model: arrays by input name in, arrays by output name out."""

TaskMetric = Callable[[Predict], float]
"""Scores a model by calling it; larger is better."""


def parse_metric(spec: str) -> tuple[str, str]:
    """The module and the function of `package.module:function`; nothing is imported. Raises `UsageError`."""
    module, colon, function = spec.partition(":")
    if not colon or not all(name.isidentifier() for part in (module, function) for name in part.split(".")):
        raise UsageError(f"metric {spec[:80]!r}: write it as package.module:function")
    return module, function


def task_metric(spec: str) -> TaskMetric:
    """Load `package.module:function`; modules of the current folder are found.

    Raises `UsageError`, one line, when there is no such module or function.
    """
    module_name, attribute = parse_metric(spec)
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise UsageError(f"metric {spec!r}: there is no module {error.name!r} here or installed") from error
        raise UsageError(f"metric {spec!r}: {module_name} needs {error.name!r}, which is not installed") from error
    except Exception as error:  # whatever the user's module does
        raise UsageError(f"metric {spec!r}: importing {module_name} raised {_said(error)}") from error
    found: object = module
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise UsageError(f"metric {spec!r}: {module_name} has no {attribute!r}")
        found = getattr(found, name)
    if not callable(found):
        raise UsageError(f"metric {spec!r}: {attribute!r} is a {type(found).__name__}, not a function")
    return found


def evaluate_metric(metric: TaskMetric, model: ModelLike, threads: int = 1) -> float:
    """The metric of a model. Raises `UsageError` when the function fails or gives no finite number."""
    name = getattr(metric, "__qualname__", None) or type(metric).__name__
    try:
        value = _score(metric, open_session(model, threads=threads))
    except InputError as error:
        raise UsageError(f"metric {name}: {error}") from error
    except Exception as error:  # whatever the user's function does
        raise UsageError(f"metric {name} raised {_said(error)}") from error
    finally:
        release_memory()
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise UsageError(f"metric {name} returned a {type(value).__name__}, not a number") from None
    if not math.isfinite(number):
        raise UsageError(f"metric {name} returned {number}; a finite number is needed")
    return number


def metric_before(spec: str, context: Context) -> float:
    """The metric of the original model, measured once for all runs on it. Raises `UsageError`."""
    original = context.original
    assert original is not None
    for name, model, value in context.shared.metrics:
        if name == spec and model is original:
            return value
    value = evaluate_metric(task_metric(spec), original, context.threads)
    context.shared.metrics.append((spec, original, value))
    return value


def _score(metric: TaskMetric, session: Any) -> float:
    def predict(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return run_session(session, feed)

    return metric(predict)


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
