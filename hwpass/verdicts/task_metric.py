"""The third verdict: a figure of merit of the user's own, `package.module:function`."""

from __future__ import annotations

import importlib
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from hwpass import interrupts
from hwpass.errors import InputError, UsageError, option
from hwpass.files.whole_files import apart
from hwpass.spans import span

if TYPE_CHECKING:
    import numpy as np

    from hwpass.runtime.sessions import ModelLike

Predict: TypeAlias = "Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]"
"""Runs the model: arrays by input name in, arrays by output name out."""


class TaskMetric(Protocol):
    """Scores a model by calling it; larger is better."""

    def __call__(self, predict: Predict, /) -> float:
        """The score of the model that `predict` runs."""


def parse_metric(spec: str) -> tuple[str, str]:
    """The module and the function of `package.module:function`; nothing is imported. Raises `UsageError`."""
    module, colon, function = spec.partition(":")
    if not colon or not all(name.isidentifier() for part in (module, function) for name in part.split(".")):
        raise UsageError(f"metric {spec[:80]!r}: write it as package.module:function")
    return module, function


def task_metric(spec: str | TaskMetric) -> TaskMetric:
    """Load `package.module:function`; modules of the current folder are found. A function is what it is.

    Raises `UsageError`, one line, when there is no such module or function.
    """
    if not isinstance(spec, str):
        return spec
    module_name, attribute = parse_metric(spec)
    with suppress(FileNotFoundError):  # a folder that was deleted has no modules
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.insert(0, here)
    importlib.invalidate_caches()  # the module may have been written since the folder was last looked at
    try:
        with _of_the_user():
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise UsageError(f"metric {spec!r}: there is no module {error.name!r} here or installed") from error
        raise UsageError(f"metric {spec!r}: {module_name} needs {error.name!r}, which is not installed") from error
    except BaseException as error:  # whatever the user's module does
        _heed(error)
        raise UsageError(f"metric {spec!r}: importing {module_name} raised {_said(error)}") from error
    found: object = module
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except Exception:
            raise UsageError(f"metric {spec!r}: {module_name} has no {attribute!r}") from None
    if not callable(found):
        raise UsageError(f"metric {spec!r}: {attribute!r} is a {type(found).__name__}, not a function")
    return found


def no_metric() -> UsageError:
    """What is said of a largest drop without the metric that would drop."""
    given = option("metric", "package.module:function")
    return UsageError(f"{option('max_drop')} bounds the drop of a metric: give one with {given}")


def metric_name(metric: str | TaskMetric) -> str:
    """A metric as a report names it. Raises `UsageError` for what is neither text nor a function."""
    if isinstance(metric, str):
        return metric
    if not callable(metric):
        raise UsageError(f"metric: a {type(metric).__name__} is neither a function nor package.module:function")
    module = getattr(metric, "__module__", None) or type(metric).__module__
    return f"{module}:{_called(metric)}"


@span("metric")
def evaluate_metric(metric: TaskMetric, model: ModelLike, threads: int = 1) -> float:
    """The metric of a model. Raises `UsageError` when the function fails or gives no finite number."""
    from hwpass.runtime.memory import release_memory
    from hwpass.runtime.sessions import open_session

    name = _called(metric)
    try:
        session = open_session(model, threads=threads)
        with _of_the_user():
            value = _score(metric, session)
            number = _number(value)
    except InputError as error:
        raise UsageError(f"metric {name}: {error}") from error
    except BaseException as error:  # whatever the user's function does
        _heed(error)
        raise UsageError(f"metric {name} raised {_said(error)}") from error
    finally:
        release_memory()
    if number is None:
        raise UsageError(f"metric {name} returned a {type(value).__name__}, not a number")
    if not math.isfinite(number):
        raise UsageError(f"metric {name} returned {number}; a finite number is needed")
    return number


def metric_before(
    spec: str | TaskMetric,
    original: ModelLike,
    known: list[tuple[str | TaskMetric, ModelLike, float]],
    threads: int = 1,
) -> float:
    """The metric of an original model, measured unless it is `known`; then it is. Raises `UsageError`."""
    for name, model, value in known:
        if (name is spec or name == spec) and model is original:
            return value
    value = evaluate_metric(task_metric(spec), original, threads)
    known.append((spec, original, value))
    return value


def _score(metric: TaskMetric, session: Any) -> float:
    from hwpass.runtime.sessions import run_session

    def predict(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return run_session(session, feed)

    return metric(predict)


def _number(value: Any) -> float | None:
    """The value as a number, where it is one: text is none, nor are several numbers."""
    import numpy as np

    if isinstance(value, np.ndarray):
        value = value.item() if value.size == 1 else None
    if isinstance(value, str | bytes | bytearray | complex):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _called(metric: TaskMetric) -> str:
    return str(getattr(metric, "__qualname__", None) or type(metric).__name__)


def _heed(error: BaseException) -> None:
    """Let an interrupt through. Where signals end the process by themselves, it is the metric's own."""
    if isinstance(error, KeyboardInterrupt) and not interrupts.watched():
        raise error


@contextmanager
def _of_the_user() -> Iterator[None]:
    """Run code of the user's: the current folder is put back, and what it writes by hwpass does not wait for us."""
    try:
        here: str | None = os.getcwd()
    except FileNotFoundError:
        here = None
    try:
        with apart():
            yield
    finally:
        if here is not None:
            with suppress(OSError):
                os.chdir(here)


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
