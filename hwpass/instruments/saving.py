"""The model after every pass that changed it, as a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hwpass.errors import InputError
from hwpass.files.whole_files import apart
from hwpass.instrument import Instrument, PassRecord, Step

if TYPE_CHECKING:
    from hwpass.context import Context
    from hwpass.model.model import Model


class SaveAfter(Instrument):
    """Writes `NN-pass.onnx` into a folder after each pass that changed the model; NN counts the pipeline's passes from
    1. Each file appears whole, and stays when a later pass fails."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.written: list[Path] = []
        self._number = 0
        self._digits = 2

    def begin(self, steps: Sequence[Step], model: Model, context: Context) -> None:
        """Make the folder. Raises InputError where there can be none."""
        self._number, self.written = 0, []
        self._digits = max(2, len(str(len(steps))))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder}: no folder can be made there ({error.strerror}); name another") from None

    def skipped(self, step: Step, model: Model, record: PassRecord, context: Context) -> None:
        self._number += 1

    def after(self, step: Step, before: Model, model: Model, record: PassRecord, context: Context) -> None:
        self._number += 1
        if record.changed:
            path = self.folder / f"{self._number:0{self._digits}}-{step.name}.onnx"
            context.progress(f"writing {path.name}")
            with apart():
                model.save(path)
            self.written.append(path)
