"""Pictures of text lines for the text recognisers: words of Debian's licence texts and numbers, in Debian's fonts.

    apt install fonts-dejavu fonts-liberation fonts-freefont-ttf

Nothing is drawn at random but by the seed: the same seed gives the same lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

FONTS = Path("/usr/share/fonts/truetype")
FAMILIES = ("DejaVuSans", "DejaVuSerif", "LiberationSans", "LiberationSerif", "LiberationMono", "FreeSans", "FreeSerif")
TEXTS = Path("/usr/share/common-licenses")

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Line:
    """A line of text and its picture [height, width, 3], BGR as the recognisers were trained."""

    text: str
    picture: Picture


def words(names: tuple[str, ...]) -> list[str]:
    """The different words of 3 to 12 letters in Debian's licence texts, sorted."""
    found: set[str] = set()
    for name in names:
        path = TEXTS / name
        if not path.is_file():
            raise SystemExit(f"{path}: there is no such file; the lines are made of Debian's licence texts")
        found |= set(re.findall(r"\b[A-Za-z]{3,12}\b", path.read_text(errors="ignore")))
    return sorted(found)


def fonts() -> list[Path]:
    """The fonts used, sorted: plain, bold and slanted faces of seven families."""
    found = sorted(p for p in FONTS.rglob("*.ttf") if p.stem.split("-")[0] in FAMILIES and "ExtraLight" not in p.stem)
    if len(found) < 20:
        raise SystemExit(f"{FONTS}: too few fonts; apt install fonts-dejavu fonts-liberation fonts-freefont-ttf")
    return found


def lines(count: int, seed: int, vocabulary: list[str]) -> Iterator[Line]:
    """`count` lines of one to three words or numbers each, slightly turned, blurred and noisy."""
    rng = np.random.default_rng(seed)
    faces = fonts()
    for _ in range(count):
        text = " ".join(_word(rng, vocabulary) for _ in range(rng.integers(1, 4)))
        yield Line(text, _draw(text, faces[rng.integers(len(faces))], rng))


def _word(rng: np.random.Generator, vocabulary: list[str]) -> str:
    kind = rng.random()
    if kind < 0.7:
        word = str(rng.choice(vocabulary))
        return word.upper() if rng.random() < 0.15 else word
    if kind < 0.9:
        return str(rng.integers(10 ** rng.integers(1, 7)))
    return f"{rng.integers(1, 29):02d}.{rng.integers(1, 13):02d}.{rng.integers(1980, 2030)}"


def _draw(text: str, face: Path, rng: np.random.Generator) -> Picture:
    size = int(rng.integers(26, 44))
    font = ImageFont.truetype(str(face), size)
    left, top, right, bottom = font.getbbox(text)
    margin = int(rng.integers(4, 10))
    shade, ink = int(rng.integers(190, 256)), int(rng.integers(0, 90))
    image = Image.new("L", (int(right - left) + 2 * margin, int(bottom - top) + 2 * margin), shade)
    ImageDraw.Draw(image).text((margin - left, margin - top), text, fill=ink, font=font)
    image = image.rotate(float(rng.uniform(-2, 2)), Image.Resampling.BICUBIC, expand=True, fillcolor=shade)
    image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 1.5))))
    grey = np.asarray(image, np.float32)
    noisy = grey + rng.normal(0, rng.uniform(0, 16), grey.shape)
    return np.repeat(np.clip(noisy, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def normalised(picture: Picture, height: int, width: int) -> NDArray[np.float32]:
    """A picture scaled to the height, [3, height, width] in [-1, 1], the rest of the width zero (PP-OCR's input)."""
    wanted = min(width, max(1, round(height * picture.shape[1] / picture.shape[0])))
    scaled = Image.fromarray(picture).resize((wanted, height), Image.Resampling.BILINEAR)
    found = np.zeros((3, height, width), np.float32)
    found[:, :, :wanted] = np.asarray(scaled, np.float32).transpose(2, 0, 1) / 127.5 - 1
    return found
