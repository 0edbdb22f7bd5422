"""Images that no camera took: overlapping shapes with a little texture.

The dead leaves model (Lee, Mumford and Huang 2001) has the occlusions, edges and 1/f spectrum of photographs; networks
even learn useful filters from it (Baradad et al. 2021). Here the number of shapes varies from two to forty, and half of
the images gather them around the centre of a plain ground, as pictures of single objects do: a mixture that is broad
rather than right, because nobody knows what the model will see.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]

#: Fewest and most shapes; the number is drawn on a logarithmic scale.
SHAPES = (2, 40)
#: Below this many, shapes are as large as objects; above, their radii r follow r^-3, as in photographs.
OBJECTS = 10
#: Standard deviations of a shape's texture, one drawn for each.
TEXTURES = (0.0, 0.05, 0.15)


def dead_leaves(rng: np.random.Generator, channels: int, height: int, width: int) -> Image:
    """One image [channels, height, width] with values in [0, 1]."""
    side = float(max(height, width))
    count = int(np.exp(rng.uniform(*np.log(SHAPES))))
    centred = rng.random() < 0.5
    image = np.empty((channels, height, width), np.float32)
    image[:] = (0.0, 0.0, 1.0, rng.random())[rng.integers(4)]
    texture = pink_noise(rng, (channels, height, width))
    for _ in range(count):
        middle = np.clip(rng.normal(0.5, 0.18, 2), 0, 1) if centred else rng.random(2)
        radius = side * (rng.uniform(0.1, 0.45) if count < OBJECTS else _power_law(rng, 0.04, 0.5))
        _paint(image, texture, rng, middle * (height, width), radius)
    return np.clip(image, 0.0, 1.0, out=image)


def _power_law(rng: np.random.Generator, low: float, high: float) -> float:
    """A radius with density proportional to r^-3 between the bounds."""
    return float((low**-2 + (high**-2 - low**-2) * rng.random()) ** -0.5)


def _paint(image: Image, texture: Image, rng: np.random.Generator, middle: NDArray[np.float64], radius: float) -> None:
    """Put one disk or rectangle on top."""
    channels, height, width = image.shape
    reach = 1.5 * radius
    rows = slice(max(0, int(middle[0] - reach)), min(height, int(middle[0] + reach) + 2))
    columns = slice(max(0, int(middle[1] - reach)), min(width, int(middle[1] + reach) + 2))
    y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - np.float32(middle[0])
    x = np.arange(columns.start, columns.stop, dtype=np.float32)[None, :] - np.float32(middle[1])
    if rng.random() < 0.5:
        inside = x * x + y * y <= radius * radius
    else:
        angle = rng.random() * np.pi * rng.integers(2)  # every other one stands upright
        cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        inside = np.abs(y * cosine + x * sine) <= radius
        inside &= np.abs(x * cosine - y * sine) <= radius * rng.uniform(0.2, 1.0)
    colour = rng.random((channels, 1)).astype(np.float32)
    depth = np.float32(TEXTURES[rng.integers(len(TEXTURES))])
    region = image[:, rows, columns]
    region[:, inside] = colour + depth * texture[:, rows, columns][:, inside]


def pink_noise(rng: np.random.Generator, shape: tuple[int, ...], axes: tuple[int, ...] = (-2, -1)) -> Image:
    """Noise of mean zero and variance one with a 1/f amplitude over `axes`: smooth, as most signals are."""
    places = [axis % len(shape) for axis in axes]
    squares = np.zeros([1] * len(shape))
    for place in places:
        frequency = np.fft.rfftfreq(shape[place]) if place == places[-1] else np.fft.fftfreq(shape[place])
        view = [1] * len(shape)
        view[place] = -1
        squares = squares + np.square(frequency).reshape(view)
    squares[(0,) * len(shape)] = np.inf  # no mean
    spectrum = np.fft.rfftn(rng.standard_normal(shape), axes=places) / np.sqrt(squares)
    noise = np.fft.irfftn(spectrum, s=[shape[place] for place in places], axes=places)
    return np.asarray(noise / (noise.std() + 1e-12), np.float32)
