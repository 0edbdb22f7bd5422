"""A picture as an input of a model: fitted to its size, in its channels and layout, on the scale that is stated."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hwpass.errors import InputError, UsageError, option
from hwpass.runtime.inputs import image_axis

if TYPE_CHECKING:
    from PIL.Image import Image

    from hwpass.runtime.inputs import InputSpec

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")

MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def picture(path: Path, source: str, spec: InputSpec) -> NDArray[Any]:
    """One picture as a sample: [1, C, H, W], or channels last.

    It is scaled until it covers the model's height and width, and what is beyond them is cut off on both sides alike;
    a side that the model leaves open keeps its own length. Raises InputError, and UsageError where nothing states the
    scale.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise UsageError(f"{source}: pictures need Pillow: pip install 'hwpass[pictures]'") from error
    free = {size: 1 for size in spec.shape if isinstance(size, str)}
    # A free side of a picture is longer than any number of channels.
    axis = image_axis(spec, dict.fromkeys(free, 1 << 10))
    if axis is None:
        raise InputError(
            f"{source}: pictures, but input {spec.name!r} of shape {list(spec.shape)} is no image with 1, 3 or 4 "
            "channels"
        )
    if spec.is_float and (spec.stated is None or not spec.stated.scaled):
        raise UsageError(
            f"{source}: how pixels become numbers is not stated; give {option('input', f'{spec.name}:range=0..1')}, "
            "or mean and std as the model was trained"
        )
    channels = spec.shape[axis]
    wanted = [spec.shape[a] for a in range(1, 4) if a != axis]
    try:
        with warnings.catch_warnings(), Image.open(path) as opened:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            turned = ImageOps.exif_transpose(opened)
            mode = MODES.get(channels, "RGB") if isinstance(channels, int) else "RGB"
            pixels = np.asarray(_fitted(turned.convert(mode), wanted[0], wanted[1]))
    except (KeyboardInterrupt, SystemExit):
        raise
    except Exception as error:  # whatever a decoder raises on what a file holds
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(f"{source}/{path.name}: not a picture that can be read: {reason}; take it out") from error
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    scaled = pixels if not spec.is_float else _scaled(pixels, spec)
    if spec.dtype == np.int8:
        scaled = (pixels.astype(np.int16) - 128).astype(np.int8)
    return (np.moveaxis(scaled, 2, 0) if axis == 1 else scaled)[None]


def _fitted(image: Image, height: int | str, width: int | str) -> Image:
    """Scaled to cover, and cut around the middle."""
    from PIL import Image, ImageOps

    size = (width if isinstance(width, int) else image.width, height if isinstance(height, int) else image.height)
    return ImageOps.fit(image, size, Image.Resampling.BILINEAR)


def _scaled(pixels: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.float32]:
    assert spec.stated is not None
    factor, shift = spec.stated.affine()
    if len(factor) not in (1, pixels.shape[2]):
        raise UsageError(
            f"{option('input', f'{spec.name}:{spec.stated}')}: there are {len(factor)} numbers for {pixels.shape[2]} "
            "channels; give one, or one for each channel"
        )
    shares = pixels.astype(np.float32) / np.float32(255)
    return shares * np.asarray(factor, np.float32) + np.asarray(shift, np.float32)
