"""The user's inputs for a model: opened, and text held against what the model can read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hwpass.data.domains import domains
from hwpass.errors import InputError, option
from hwpass.figures import shown_path
from hwpass.model.model import Model
from hwpass.runtime.calibration import Calibration, check_statements, is_text, load_calibration
from hwpass.runtime.inputs import InputSpec
from hwpass.runtime.memory import release_memory
from hwpass.runtime.sessions import Feed, open_session, run_session
from hwpass.runtime.texts import with_tokenizer


def given_inputs(
    model: Model, data: Any, specs: Sequence[InputSpec], warn: Callable[[str], None], threads: int = 1
) -> Calibration:
    """Calibration data for a model. `warn` is told which tokenizer was taken where none is stated.

    Raises InputError, and UsageError for statements that have no use.
    """
    check_statements(data, specs)
    if not is_text(data):
        return load_calibration(data, specs)
    path = Path(data)
    # What lies beside the model was made for it.
    homes = [Path(model.path).parent] if model.path and Path(model.path).is_file() else []
    specs, found = with_tokenizer(path.name, specs, [*homes, path if path.is_dir() else path.parent])
    if found is not None:
        ids = next(spec.name for spec in specs if spec.stated is not None and spec.stated.tokenizer)
        another = option("input", f"{ids}:tokenizer=FILE")
        warn(f"text is read through {shown_path(found)}, which was found and not stated; {another} names another")
    calibration = load_calibration(data, specs)
    _check_tokens(model, calibration, path.name, threads)
    return calibration


def _check_tokens(model: Model, data: Calibration, source: str, threads: int) -> None:
    """The model runs on the largest tokens and the longest sample. Raises InputError."""
    known = {name: domain.high for name, domain in domains(model.graph)[0].items() if domain.kind == "index"}
    beyond: dict[str, tuple[int, Feed]] = {}
    longest: Feed = {}
    for feed in data.batches():
        if sum(np.size(value) for value in feed.values()) > sum(np.size(value) for value in longest.values()):
            longest = feed
        for name, value in feed.items():
            if name in known and (largest := int(np.max(value))) > max(known[name], beyond.get(name, (0, {}))[0]):
                beyond[name] = largest, feed
    session = open_session(model.proto(), threads=threads, level="lean")
    try:
        # What the graph says of an input may be less than what it takes: a run tells.
        for name, (largest, feed) in beyond.items():
            if _failure(session, feed):
                raise InputError(
                    f"{source}: token {largest} of input {name!r}, but the model's table has rows 0 to {known[name]}; "
                    "give the tokenizer that the model was trained with"
                )
        if failure := _failure(session, longest):
            sizes = ", ".join(f"{name!r} {list(np.shape(value))}" for name, value in longest.items())
            raise InputError(
                f"{source}: the model does not run on the longest samples ({sizes}): {failure}; say how many tokens it "
                f"takes with {option('input', 'NAME:length=64')}, or give the tokenizer that it was trained with"
            )
    finally:
        del session
        release_memory()


def _failure(session: Any, feed: Feed) -> str:
    """Why the model does not run on a feed; empty where it does."""
    try:
        run_session(session, feed)
    except InputError as error:
        return str(error)
    return ""
