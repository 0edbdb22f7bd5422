"""`ncnn`: ncnn on this machine's processor, models converted by pnnx (extra `ncnn`)."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np

from hwpass.errors import InputError, one_line
from hwpass.files.temporary import TemporaryFolder
from hwpass.runners.in_process import ENGINES, ProcessRunner
from hwpass.runners.runner import Job, need, register


@register
class Ncnn(ProcessRunner):
    """ncnn, fp32, on the processor. A model is converted once for each set of input sizes."""

    name = "ncnn"
    summary = "ncnn on this machine's processor, models converted by pnnx (extra ncnn)"
    engine = ENGINES / "ncnn_engine.py"
    bases = ("mobile-cpu", "server-cpu")

    def __init__(self, argument: str = "") -> None:
        super().__init__(argument)
        for module in ("ncnn", "pnnx"):
            need(module, "ncnn", f"runner {self.name}")
        self._program = _converter()
        self._folder = TemporaryFolder()
        self._made: dict[str, dict[str, Any]] = {}

    def more(self, job: Job) -> Mapping[str, Any]:
        """The converted files; or why there are none."""
        key = hashlib.sha256(f"{job.model}\n{job.feed}".encode()).hexdigest()[:16]
        if key not in self._made:
            self._made[key] = self._converted(job, self._folder.path / key)
        return self._made[key]

    def _converted(self, job: Job, folder: Path) -> dict[str, Any]:
        folder.mkdir()
        model = folder / "m.onnx"
        copyfile(job.model, model)
        data = Path(f"{job.model}.data")
        if data.is_file():
            os.symlink(data, folder / data.name)
        with np.load(job.feed, allow_pickle=True) as arrays:
            values = [arrays[f"arr_{place}"] for place in range(1, len(arrays.files), 2)]
        shapes = ",".join(
            f"[{','.join(map(str, value.shape))}]{_TYPES.get(value.dtype.name, 'f32')}" for value in values
        )
        command = [str(self._program), model.name, f"inputshape={shapes}", "fp16=0"]
        try:
            done = subprocess.run(command, cwd=folder, check=False, stdin=subprocess.DEVNULL, capture_output=True,
                                  timeout=job.timeout)  # fmt: skip
        except subprocess.TimeoutExpired:
            return {"failure": f"pnnx did not convert it within {job.timeout:g} s"}
        param = folder / "m.ncnn.param"
        if done.returncode or not param.is_file():
            said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
            return {"failure": f"pnnx cannot convert it: {one_line(said[-1]) if said else done.returncode}"}
        batched = all(value.ndim > 1 and value.shape[0] == 1 for value in values)
        return {"param": str(param), "bin": str(folder / "m.ncnn.bin"), "batched": batched}

    def describe(self) -> str:
        """Versions."""
        return f"ncnn {version('ncnn')} (pnnx {version('pnnx')}), fp32"


#: pnnx's names of number formats.
_TYPES = {"float32": "f32", "float64": "f64", "float16": "f16", "int64": "i64", "int32": "i32", "int8": "i8",
          "uint8": "u8"}  # fmt: skip


def _converter() -> Path:
    """The program of the package pnnx, whose own command starts slower. Raises InputError where it has none."""
    spec = importlib.util.find_spec("pnnx")
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    found = [path for place in places for path in Path(place).glob("pnnx*") if path.suffix in ("", ".exe")]
    programs = [path for path in found if path.is_file()]
    if not programs:
        raise InputError("runner ncnn: the package pnnx has no program; install another version of it")
    return programs[0]
