"""Speech and noise for voice activity detection: espeak-ng sentences among noises, with a label per frame.

    apt install espeak-ng

The same seed gives the same audio with the same version of espeak-ng.
"""

from __future__ import annotations

import io
import subprocess
import wave
from math import gcd

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter, resample_poly

RATE = 16000
FRAME = 512
VOICES = ("en-us", "en-gb", "en-us+f3", "en-gb+m4", "de", "fr", "es", "it+f2", "en-gb-scotland", "pl", "nl+f4", "sv")

Audio = NDArray[np.float32]


def speak(text: str, voice: str, speed: int, pitch: int) -> Audio:
    """What espeak-ng says, at 16 kHz, with a largest magnitude of one."""
    command = ["espeak-ng", "--stdout", "-v", voice, "-s", str(speed), "-p", str(pitch), text]
    try:
        data = subprocess.run(command, capture_output=True, check=True).stdout
    except FileNotFoundError:
        raise SystemExit("espeak-ng: there is no such program; apt install espeak-ng") from None
    with wave.open(io.BytesIO(data)) as file:
        rate, sound = file.getframerate(), np.frombuffer(file.readframes(1 << 30), np.int16).astype(np.float32)
    common = gcd(RATE, rate)
    sound = resample_poly(sound, RATE // common, rate // common)
    return np.asarray(sound / max(np.abs(sound).max(), 1), np.float32)


def noise(length: int, rng: np.random.Generator) -> Audio:
    """One of five noises with a root mean square of one: white, pink-like, hum, clicks, a passing engine."""
    white = rng.normal(size=length)
    time = np.arange(length) / RATE
    kind = rng.integers(5)
    if kind == 1:
        white = lfilter([1.0], [1.0, -0.97], white)
    elif kind == 2:
        pitch = rng.uniform(50, 400)
        white = sum(np.sin(2 * np.pi * pitch * k * time + rng.uniform(0, 6)) / k for k in range(1, 8)) + 0.1 * white
    elif kind == 3:
        white = lfilter([1.0], [1.0, -1.2, 0.6], white * (rng.random(length) < 0.002) * 30) + 0.1 * white
    elif kind == 4:
        swell = 0.3 + np.square(np.sin(np.pi * time * rng.uniform(0.2, 1.5)))
        white = lfilter([1.0], [1.0, -1.6, 0.8], white) * swell
    return np.asarray(white / np.sqrt(np.mean(np.square(white)) + 1e-12), np.float32)


def clips(count: int, seconds: float, seed: int, sentences: list[str]) -> tuple[Audio, NDArray[np.bool_]]:
    """`count` clips [count, frames x 512] of speech and pauses in noise, and whether each frame has speech in it.

    The signal-to-noise ratio is 0 to 20 dB per clip. A frame counts as speech where the clean sentence has at least
    a hundredth of its loudest frame's power.
    """
    rng = np.random.default_rng(seed)
    frames = int(seconds * RATE) // FRAME
    audio = np.zeros((count, frames * FRAME), np.float32)
    speech = np.zeros((count, frames), bool)
    for number in range(count):
        clean = np.zeros(frames * FRAME, np.float32)
        start = int(rng.integers(RATE // 2, RATE * 2))
        while start < len(clean):
            text = str(rng.choice(sentences))
            said = speak(text, str(rng.choice(VOICES)), int(rng.integers(130, 210)), int(rng.integers(20, 80)))
            said = said[: len(clean) - start]
            clean[start : start + len(said)] = said
            start += len(said) + int(rng.integers(RATE, RATE * 3))
        power = np.square(clean.reshape(frames, FRAME)).mean(axis=1)
        speech[number] = power > 0.01 * power.max()
        level = np.sqrt(power[speech[number]].mean()) * 10 ** (-rng.uniform(0, 20) / 20)
        mixed = clean + level * noise(len(clean), rng)
        audio[number] = mixed * rng.uniform(0.1, 0.9) / np.abs(mixed).max()
    return audio, speech
