"""The work of networks: of a zoo's graphs by name, kept between runs, since coupling a large graph takes seconds."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import zoo_module

import hwpass
from hwpass.cost.kernels import Kernels
from hwpass.cost_models.work import Work
from hwpass.coupling.groups import Coupling
from hwpass.workflows.inspect import coupled


@dataclass
class Zoo:
    """Graphs of a folder with `load.py`; what is found of one is kept in `cache`."""

    folder: Path
    cache: Path

    def __post_init__(self) -> None:
        self.cache.mkdir(parents=True, exist_ok=True)
        self._names: list[str] | None = None

    def names(self) -> list[str]:
        """Names of all graphs."""
        if self._names is None:
            self._names = list(zoo_module(self.folder).names())
        return self._names

    def work(self, name: str, fusion: Sequence[Sequence[str]], width: float = 1.0) -> Work:
        """The work of one plan, [1, K], under a target's fusion rules; `width` is a share of every group's channels."""
        key = hashlib.sha256(json.dumps([hwpass.__version__, name, [list(c) for c in fusion], width]).encode())
        file = self.cache / f"{name}-{key.hexdigest()[:16]}.pickle"
        if file.is_file():
            with file.open("rb") as stream:
                kept: Work = pickle.load(stream)  # written by the lines below
                return kept
        found = work_of(coupled(zoo_module(self.folder).load_zoo(name)), fusion, width)
        with file.open("wb") as stream:
            pickle.dump(found, stream)
        return found


def work_of(coupling: Coupling, fusion: Sequence[Sequence[str]], width: float = 1.0) -> Work:
    """The work of a coupled model with a share of the channels of every group."""
    kernels = Kernels(coupling, fusion)
    return kernels.work(np.maximum(np.rint(kernels.dense * width), 1)[None, :])
