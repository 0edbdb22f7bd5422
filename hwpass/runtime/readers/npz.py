"""Data in an `.npz`: an array per input.

Only compressed members are held in memory, because they cannot be entered in the middle. An archive's directory is not
believed.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from hwpass import plugins
from hwpass.errors import InputError
from hwpass.runtime.reader import Batches, Reader, accepted, register

if TYPE_CHECKING:
    from hwpass.runtime.array_files import Rows
    from hwpass.runtime.inputs import InputSpec

HELD_BYTES = 1 << 30
"""Compressed arrays of one archive may not take more memory than this."""


@register
class Npz(Reader):
    """An archive of arrays; it also tries files that no other reader is for."""

    suffixes = (".npz",)
    summary = "an archive with an array per input"

    def read(self, path: Path, source: str, specs: Sequence[InputSpec]) -> Batches:
        if not zipfile.is_zipfile(path):
            why = plugins.why_not(plugins.CALIBRATION, path.suffix)
            raise InputError(f"{source}: not an .npz; pass {accepted()}{why}")
        return [_open_npz(path, source, specs)]


def _open_npz(path: Path, source: str, specs: Sequence[InputSpec]) -> dict[str, Rows]:
    import numpy as np

    from hwpass.runtime.array_files import Filed, Held, npy_header, readable, unknown_input

    arrays: dict[str, Rows] = {}
    held = 0
    with readable(source, " as .npz"), zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            where = f"{source}/{member.filename}"
            if name not in {spec.name for spec in specs}:
                raise unknown_input(source, name, specs)
            if name in arrays:
                raise InputError(f"{where}: is in the archive twice; write it again")
            if member.flag_bits & 1:
                raise InputError(f"{where}: is encrypted; save it without a password")
            with readable(where), archive.open(member) as stream:
                shape, fortran, dtype = npy_header(stream)
                start, size = stream.tell(), prod(shape) * dtype.itemsize
                if start + size > member.file_size:
                    raise InputError(f"{where}: is shorter than its header says; write it again")
                if member.compress_type != zipfile.ZIP_STORED or fortran or not shape:
                    held += size
                    if held > HELD_BYTES:
                        raise InputError(
                            f"{where}: {held / 1e9:.1f} GB of compressed arrays would be held in memory; save them with"
                            " numpy.savez, which does not compress, or give fewer samples"
                        )
                    stream.seek(0)
                    arrays[name] = Held(np.lib.format.read_array(stream, allow_pickle=False))
                    continue
            with readable(where), open(path, "rb") as raw:  # the local header repeats the name and an extra field
                raw.seek(member.header_offset + 26)
                name_bytes, extra_bytes = np.frombuffer(raw.read(4), "<u2").tolist()
                offset = member.header_offset + 30 + name_bytes + extra_bytes + start
                if offset + size > os.fstat(raw.fileno()).st_size:
                    raise InputError(f"{where}: the archive ends in the middle of it; write it again")
            arrays[name] = Filed(path, offset, shape, dtype)
    return arrays
