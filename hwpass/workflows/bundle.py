"""A reproducer: a folder with the least that shows a failure, written whole, read with care."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import zipfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hwpass.cost_models import Target
from hwpass.errors import InputError, option
from hwpass.figures import shown, shown_path
from hwpass.files.data_files import read_data
from hwpass.planning.plan import Plan
from hwpass.version import __version__
from hwpass.workflows.failures import Failure, Setting

#: What a bundle is: its description, the graph, and where there are any calibration data and a plan.
FACTS, MODEL, DATA, PLAN = "bundle.json", "model.onnx", "inputs.npz", "plan.json"

#: Bytes of the largest description that is read.
LARGEST = 1 << 20

#: Whose versions are told.
LIBRARIES = ("onnx", "onnxruntime", "onnx-graphsurgeon", "numpy", "scipy")

README = """{failure}

Replay it:

    hwpass replay {name}

{facts} has the pipeline, the options and the versions, {model} the graph ({nodes} nodes, cut out of {given}).
"""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Told(_Part):
    """How it failed."""

    step: str
    error: str
    where: str
    message: str


class Bundle(_Part):
    """What a reproducer says besides its graph: `model_nodes` were in the model that failed first."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    hwpass: str
    versions: dict[str, str]
    pipeline: str
    failure: Told
    reproduced: bool = Field(description="whether it failed the same way when the bundle was made")
    model: str = Field(description="where the model came from")
    model_sha256: str
    model_nodes: int
    nodes: int
    seed: int
    threads: int
    dims: dict[str, int] = Field(default_factory=dict)
    rtol: float | None = None
    target: Target | None = None
    inputs: dict[str, str] = Field(default_factory=dict, description="keys of the data by the names of inputs")


def versions() -> dict[str, str]:
    """The versions of what a run goes through."""
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def write_bundle(
    folder: str | os.PathLike[str], graph: onnx.ModelProto, pipeline: str, setting: Setting, failure: Failure,
    given: Mapping[str, str | int], reproduced: bool,
) -> Path:  # fmt: skip
    """Write a reproducer; returns its folder, which appears whole or not at all. `-2`, `-3`, ... is appended to a name
    that is taken. Raises InputError where it cannot be written."""
    place = Path(folder)
    number = 1
    while place.exists():
        number += 1
        place = Path(f"{os.fspath(folder)}-{number}")
    feed = setting.feed or {}
    facts = Bundle.model_validate({
        "schema": 1, "hwpass": __version__, "versions": versions(), "pipeline": pipeline,
        "failure": {"step": failure.step, "error": failure.error, "where": failure.where, "message": failure.message},
        "reproduced": reproduced, "model": given["path"], "model_sha256": given["sha256"],
        "model_nodes": given["nodes"], "nodes": len(graph.graph.node), "seed": setting.seed,
        "threads": setting.threads, "dims": dict(setting.dims), "rtol": setting.rtol, "target": setting.target,
        "inputs": {f"input_{index}": name for index, name in enumerate(feed)},
    })  # fmt: skip
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as scratch:
            whole = Path(scratch) / "bundle"
            whole.mkdir()
            (whole / MODEL).write_bytes(graph.SerializeToString(deterministic=True))
            (whole / FACTS).write_text(_text(facts), encoding="utf-8")
            if feed:
                _write_arrays(whole / DATA, {key: feed[name] for key, name in facts.inputs.items()})
            if setting.plan is not None:
                (whole / PLAN).write_text(setting.plan.to_json(), encoding="utf-8")
            told = {"facts": FACTS, "model": MODEL, "nodes": facts.nodes, "given": f"{facts.model_nodes}"}
            text = README.format(failure=failure, name=place.name, **told)
            (whole / "README.txt").write_text(text, encoding="utf-8", errors="backslashreplace")
            whole.rename(place)
    except OSError as error:
        raise InputError(f"{place}: the reproducer cannot be written: {error.strerror or error}") from error
    return place


def _text(facts: Bundle) -> str:
    data = facts.model_dump(mode="json", by_alias=True)
    if facts.target is not None:  # what a target does not say has no source, which it would have to have
        data["target"] = facts.target.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def _write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Arrays under plain keys: names of inputs need not be names of files."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, value in arrays.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.asarray(value), allow_pickle=False)


def read_bundle(folder: str | os.PathLike[str]) -> tuple[Bundle, Path, Setting]:
    """The description of a reproducer, the place of its graph, and what it runs under. Raises InputError."""
    place = Path(folder)
    name = shown_path(place)
    if not place.is_dir():
        raise InputError(f"{name}: no such folder; name the folder that {option('reproducer')} wrote")
    text = read_data(str(place / FACTS), "reproducer", LARGEST)
    try:
        facts = Bundle.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its text"
        raise InputError(f"{name}: {FACTS} is no description of a reproducer: {where}: {shown(first['msg'])}") from None
    feed = None
    if facts.inputs:
        try:
            with np.load(place / DATA, allow_pickle=False) as arrays:
                feed = {name: arrays[key] for key, name in facts.inputs.items()}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(f"{name}: {DATA} cannot be read: {shown(str(error))}") from None
    plan = Plan.read(place / PLAN) if (place / PLAN).exists() else None
    setting = Setting(facts.target, facts.seed, facts.threads, facts.dims, feed, plan, facts.rtol)
    return facts, place / MODEL, setting
