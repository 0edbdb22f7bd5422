"""Rows of a product's input and output at sampled positions: what least squares and Gram matrices are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product as cartesian
from math import prod
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """The window of a convolution; every tuple has one entry per image axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]  # padding before the first index

    @classmethod
    def of(cls, node: gs.Node, image: Sequence[int]) -> Window:
        """The window of a Conv or ConvTranspose node over an image of the given extents."""
        kernel = tuple(int(s) for s in node.inputs[1].shape[2:])
        rank = len(kernel)
        strides = tuple(node.attrs.get("strides") or [1] * rank)
        dilations = tuple(node.attrs.get("dilations") or [1] * rank)
        mode = node.attrs.get("auto_pad", "NOTSET")
        if mode in ("SAME_UPPER", "SAME_LOWER"):
            begins = []
            for size, k, s, d in zip(image, kernel, strides, dilations, strict=True):
                total = max(0, (-(-size // s) - 1) * s + (k - 1) * d + 1 - size)
                begins.append(total // 2 if mode == "SAME_UPPER" else total - total // 2)
            return cls(kernel, strides, dilations, tuple(begins))
        pads = node.attrs.get("pads") if mode == "NOTSET" else None
        return cls(kernel, strides, dilations, tuple((pads or [0] * rank)[:rank]))


def sample(size: int, image: Sequence[int], each: int, random: np.random.Generator) -> tuple[Ints, ...]:
    """Positions in a batch of `size` samples: numbers of the samples, and one index array per axis of the image.

    Every sample gives `each` of its positions, or all it has.
    """
    total = prod(image)
    if each < total:
        flat = np.concatenate([np.sort(random.choice(total, each, replace=False, shuffle=False)) for _ in range(size)])
    else:
        flat = np.tile(np.arange(total), size)
    places = np.unravel_index(flat, tuple(image)) if image else ()
    return (np.repeat(np.arange(size), min(each, total)), *[np.asarray(p, np.int64) for p in places])


def conv_rows(x: np.ndarray, window: Window, where: tuple[Ints, ...]) -> NDArray[np.float32]:
    """Patches [rows, channels, taps] of an image [n, channels, ..] at output positions."""
    samples, places = where[0], where[1:]
    image = x.shape[2:]
    rows = np.zeros((len(samples), x.shape[1], prod(window.kernel)), np.float32)
    for tap, offset in enumerate(cartesian(*[range(k) for k in window.kernel])):
        index = [p * s - b + o * d for p, s, b, o, d in
                 zip(places, window.strides, window.begins, offset, window.dilations, strict=True)]  # fmt: skip
        inside = np.ones(len(samples), bool)
        for place, size in zip(index, image, strict=True):
            inside &= (place >= 0) & (place < size)
        chosen: tuple[Any, ...] = (samples[inside], slice(None), *[i[inside] for i in index])
        picked = x[chosen]
        rows[inside, :, tap] = picked
    return rows


def transposed_rows(x: np.ndarray, window: Window, where: tuple[Ints, ...]) -> NDArray[np.float32]:
    """What the outputs of a transposed convolution at given positions read, [rows, channels, taps].

    Tap o of output p reads input (p + begin - o x dilation) / stride, where that is a position of the image.
    """
    samples, places = where[0], where[1:]
    rows = np.zeros((len(samples), x.shape[1], prod(window.kernel)), np.float32)
    for tap, offset in enumerate(cartesian(*[range(k) for k in window.kernel])):
        inside = np.ones(len(samples), bool)
        index = []
        for place, stride, begin, o, dilation, size in zip(
            places, window.strides, window.begins, offset, window.dilations, x.shape[2:], strict=True
        ):
            scaled = place + begin - o * dilation
            inside &= (scaled >= 0) & (scaled % stride == 0) & (scaled < size * stride)
            index.append(scaled // stride)
        chosen: tuple[Any, ...] = (samples[inside], slice(None), *[i[inside] for i in index])
        rows[inside, :, tap] = x[chosen]
    return rows


def image_rows(y: np.ndarray, where: tuple[Ints, ...]) -> NDArray[np.float32]:
    """Entries [rows, channels] of an image [n, channels, ..] at positions."""
    index: tuple[Any, ...] = (where[0], slice(None), *where[1:])
    return np.asarray(y[index], np.float32)


def last_axis_rows(y: np.ndarray, where: tuple[Ints, ...]) -> NDArray[np.float32]:
    """Entries [rows, channels] of a tensor whose channels come last, at positions of the axes before."""
    return np.asarray(y[where], np.float32)
