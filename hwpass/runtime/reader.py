"""What reads data from a file or a folder: one class by the suffixes it is for; and the registry."""

from __future__ import annotations

import os
import re
import stat
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

from hwpass import plugins
from hwpass.errors import HwpassError, InputError

if TYPE_CHECKING:
    import numpy as np

    from hwpass.runtime.array_files import Rows
    from hwpass.runtime.inputs import InputSpec

#: Arrays by input name, a mapping per batch of files: those of one mapping have as many samples as each other.
Batches: TypeAlias = "Sequence[Mapping[str, Rows | np.ndarray]]"

#: Stands for the suffix of a folder.
FOLDER = "/"


class Reader(ABC):
    """Reads data for a model's inputs. A new one is one class under `@register`, or one that an entry point names.

    `suffixes` are those of the files that it is for, in small letters with the dot; `summary` is one line for people.
    What it gives is checked against the model's inputs afterwards.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()
    summary: ClassVar[str] = ""

    @abstractmethod
    def read(self, path: Path, source: str, specs: Sequence[InputSpec]) -> Batches:
        """The arrays by input name: NumPy's own, or `Rows`, which are read some at a time. `source` is the file in
        messages. Raises InputError."""


def _suffixes(cls: type[Reader]) -> tuple[str, ...]:
    bad = [suffix for suffix in cls.suffixes or ("",) if not re.fullmatch(r"\.[a-z0-9]+|/", suffix)]
    if bad:
        raise ValueError(f"{cls.__name__}.suffixes: {bad[0]!r} is no suffix: write a dot, small letters and digits")
    return cls.suffixes


_READERS: plugins.Classes[type[Reader]] = plugins.Classes(
    plugins.Kind(Reader, "hwpass.runtime.reader.Reader", "reader", "readers"),
    "hwpass.runtime.readers",
    plugins.CALIBRATION,
    _suffixes,
)
_R = TypeVar("_R", bound=type[Reader])


def register(cls: _R) -> _R:
    """Class decorator: enter a reader under its suffixes. Raises TypeError for what is none, ValueError for a suffix
    that is taken."""
    _READERS.register(cls)
    return cls


def readers() -> dict[str, type[Reader]]:
    """Every reader by suffix: those of `hwpass.runtime.readers`, and those of installed packages (entry points
    `hwpass.calibration`)."""
    return _READERS.known()


def accepted() -> str:
    """What may be passed, for a message.

    >>> accepted()
    'an .npz, an .npy, a .txt or a folder of .npy, of pictures, of WAV files or of .txt'
    """
    own = (".npz", ".npy")
    others = [f"a {suffix}" for suffix in readers() if suffix not in (*own, FOLDER)]
    listed = ", ".join([*(f"an {suffix}" for suffix in own), *others])
    return f"{listed} or a folder of .npy, of pictures, of WAV files or of .txt"


def rows_from_path(path: Path, source: str, specs: Sequence[InputSpec]) -> list[dict[str, Rows]]:
    """The arrays by input name, a mapping per batch of files; `InputError` when they cannot be read."""
    from hwpass.runtime.array_files import in_short, readable

    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file or folder") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)[-200:]}: cannot be read: {in_short(error)}; give another path") from error
    known, suffix = readers(), path.suffix.lower()
    if stat.S_ISDIR(mode):
        # A format may be a folder whose name has its suffix.
        reader = known[FOLDER if suffix not in known or _ours(known[suffix]) else suffix]
    elif not stat.S_ISREG(mode):
        raise InputError(f"{path}: neither a file nor a folder; pass {accepted()}")
    else:
        with readable(source):
            path.open("rb").close()
        reader = known.get(suffix, known[".npz"])
    if _ours(reader):
        return _as_rows(reader().read(path, source, specs))
    try:
        return _as_rows(reader().read(path, source, specs))
    except (HwpassError, MemoryError):
        raise
    except Exception as error:  # whatever somebody else's reader does
        reason = in_short(error)
        raise InputError(f"{source}: cannot be read by {reader.__name__}: {type(error).__name__}: {reason}") from error


def _ours(reader: type[Reader]) -> bool:
    return reader.__module__.startswith("hwpass.")


def _as_rows(batches: Batches) -> list[dict[str, Rows]]:
    return [{name: _rows(value) for name, value in batch.items()} for batch in batches]


def _rows(value: Any) -> Rows:
    import numpy as np

    from hwpass.runtime.array_files import Held

    return value if hasattr(value, "read") else Held(np.asarray(value))
