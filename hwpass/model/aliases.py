"""Whether two paths lead to one file: by links of both kinds, by other spellings, or by case where case is ignored."""

from __future__ import annotations

import errno
import os
import stat
import sys
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hwpass.errors import InputError

#: Models beyond this size are not looked through for the names of external data: their weights are in the file.
LOOKED_THROUGH = 256 << 20


@dataclass(frozen=True)
class Place:
    """Where a file is or will be: `inode` of a file that is there, else the folder's and the name in it."""

    label: str
    path: str
    inode: tuple[int, int] | None
    folder: tuple[int, int] | None = None
    name: str = ""

    @classmethod
    def of(cls, label: str, path: str | os.PathLike[str]) -> Place:
        """The place that a path leads to. A path that cannot be is a place apart; others say what is wrong with it."""
        text = os.fsdecode(path)
        try:
            found = os.stat(text)
            return cls(label, text, (found.st_dev, found.st_ino))
        except (OSError, ValueError) as error:
            if getattr(error, "errno", None) == errno.ENAMETOOLONG:  # links in it are looked for step by step
                return cls(label, text, None)
        try:
            real = Path(os.path.realpath(text))
            parent = os.stat(real.parent)
        except (OSError, ValueError):
            return cls(label, text, None)
        return cls(label, text, None, (parent.st_dev, parent.st_ino), real.name)

    @classmethod
    def of_stream(cls, label: str, descriptor: int) -> Place | None:
        """The file that a standard stream was sent to or from; None for terminals, pipes and closed streams."""
        try:
            found = os.fstat(descriptor)
        except OSError:
            return None
        return cls(label, label, (found.st_dev, found.st_ino)) if stat.S_ISREG(found.st_mode) else None

    def same(self, other: Place) -> bool:
        """Whether both are one file."""
        if self.inode is not None or other.inode is not None:
            return self.inode == other.inode
        if self.folder is None or self.folder != other.folder:
            return False
        if self.name == other.name:
            return True
        return _folded(self.name) == _folded(other.name) and ignores_case(Path(os.path.realpath(self.path)).parent)


def check_apart(outputs: Iterable[str | os.PathLike[str]], inputs: Iterable[str]) -> None:
    """Raise InputError where a file would be written over one that is still being read."""
    sources = [Place.of("", path) for path in inputs]
    for output in outputs:
        place = Place.of("", output)
        if any(place.same(source) for source in sources):
            raise InputError(f"{place.path}: the model was read from there; save it under another name")


def files_of_model(path: str) -> Iterator[str]:
    """A model's file, and those with its external data."""
    yield path
    try:
        if not os.path.isfile(path) or os.path.getsize(path) > LOOKED_THROUGH:
            return
        data = Path(path).read_bytes()
    except (OSError, ValueError):
        return
    if b"location" not in data:
        return
    from onnx import ModelProto

    from hwpass.proto.external import external

    try:
        tensors = [t for t in ModelProto.FromString(data).graph.initializer if external(t)]
        found = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
    except Exception:  # not a model, which is said when it is loaded
        return
    for location in sorted(found):
        yield os.path.join(os.path.dirname(path), location)


def files_of_data(path: str) -> Iterator[str]:
    """A file of calibration data, or the files of a folder of such."""
    yield path
    try:
        yield from (entry.path for entry in os.scandir(path)) if os.path.isdir(path) else ()
    except (OSError, ValueError):
        return


def files_of_metric(spec: str) -> Iterator[str]:
    """Where the module of a metric would be in the current folder."""
    stem = os.path.join(*spec.partition(":")[0].split("."))
    yield f"{stem}.py"
    yield os.path.join(stem, "__init__.py")


def ignores_case(folder: Path) -> bool:
    """Whether a file in the folder is found by its name in other letters; tried out."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".hwpass-CASE-") as trial:
            return os.path.exists(trial.name.replace(".hwpass-CASE-", ".hwpass-case-"))
    except OSError:
        return sys.platform in ("win32", "darwin")


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
