"""Weights that lie in a file while nobody reads them."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import onnx_graphsurgeon as gs

from hwpass.proto import adapter
from hwpass.proto.streaming import contiguous

#: Models of fewer bytes stay in memory, and so do single weights.
MODEL_BYTES, WEIGHT_BYTES = 64 << 20, 64 << 10


def put_aside(constants: Sequence[gs.Constant]) -> None:
    """Map the weights of a large model from a temporary file without a name, where nothing else can change them.

    Several forms of a model live through a run, of which one is read at a time: the pages of the others can be given
    back (`release_pages`). Without room for the file the weights stay where they are.
    """
    held = {id(values): values for tensor in constants if _movable(values := adapter.held(tensor))}
    if sum(values.nbytes for values in held.values()) < MODEL_BYTES:
        return
    places: dict[int, int] = {}
    # A folder that cannot be written to, or has no room: a run that needs it for more says so.
    with suppress(OSError), tempfile.TemporaryFile(prefix="hwpass-") as stream:
        for key, values in held.items():
            places[key] = stream.seek(-stream.tell() % mmap.PAGESIZE, 1)
            stream.write(contiguous(values))
        stream.flush()
        for tensor in constants:
            values = adapter.held(tensor)
            if id(values) in places:
                mapped = np.memmap(stream, values.dtype, "r", places[id(values)], values.shape)
                adapter.hold(tensor, mapped)


def _movable(values: object) -> bool:
    return (
        isinstance(values, np.ndarray)
        and adapter.mapping(values) is None
        and not values.dtype.hasobject
        and values.nbytes >= WEIGHT_BYTES
    )
