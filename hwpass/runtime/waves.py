"""A WAV file as input of a model of sound: one channel, at the rate that it has."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hwpass.errors import InputError

if TYPE_CHECKING:
    from hwpass.runtime.inputs import InputSpec

SUFFIXES = (".wav",)

#: Bytes of a number, its type, and the magnitude that is 1.
WIDTHS = {1: ("<u1", 1 << 7), 2: ("<i2", 1 << 15), 4: ("<i4", 1 << 31)}


def waveform(path: Path, source: str, spec: InputSpec) -> NDArray[Any]:
    """One file as samples [N, T] or [N, 1, T], in [-1, 1] or the range stated; pieces of the length that a model wants.

    Channels are averaged. What is left over at the end goes; a file shorter than one piece is followed by silence.
    Raises InputError.
    """
    sides = spec.shape[1:]
    if not spec.is_float or len(sides) not in (1, 2) or (len(sides) == 2 and sides[0] != 1):
        raise InputError(
            f"{source}: WAV files, but input {spec.name!r} of shape {list(spec.shape)} is no sound: [batch, time] or "
            "[batch, 1, time] of floating point"
        )
    if spec.stated is not None and (spec.stated.mean or spec.stated.std):
        raise InputError(f"{source}: of sound in input {spec.name!r} say the range")
    try:
        with wave.open(str(path), "rb") as stream:
            width, channels = stream.getsampwidth(), stream.getnchannels()
            data = stream.readframes(stream.getnframes())
        if width not in WIDTHS:
            raise InputError(f"{source}/{path.name}: {8 * width} bits a sample; write it with 8, 16 or 32")
        kind, whole = WIDTHS[width]
        frames = np.frombuffer(data[: len(data) // (width * channels) * (width * channels)], kind).astype(np.float64)
    except (wave.Error, EOFError, OSError) as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(f"{source}/{path.name}: not a WAV file that can be read: {reason}; take it out") from error
    heard = (frames.reshape(-1, channels).mean(axis=1) - (whole if width == 1 else 0)) / whole
    if not heard.size:
        raise InputError(f"{source}/{path.name}: no sound in this file; take it out")
    if spec.stated is not None and spec.stated.range is not None:
        low, high = spec.stated.range
        heard = low + (heard + 1) / 2 * (high - low)
    length = sides[-1] if isinstance(sides[-1], int) else len(heard)
    if len(heard) < length:
        heard = np.pad(heard, (0, length - len(heard)))
    pieces: NDArray[Any] = heard[: len(heard) // length * length].reshape(-1, length).astype(spec.dtype)
    return pieces[:, None] if len(sides) == 2 else pieces
