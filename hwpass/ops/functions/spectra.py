"""Fourier transforms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_graphsurgeon as gs

from hwpass.ops.functions.common import F, NoFunction, given, integers, torch


def dft(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The discrete Fourier transform along one axis of [.., 1 or 2], whose last axis holds real and imaginary part."""
    x, length = inputs[0], given(inputs, 1)
    if opset >= 20:
        axis = -2 if given(inputs, 2) is None else integers(inputs[2])[0]
    else:
        axis = int(node.attrs.get("axis", 1))
    axis %= x.dim()
    inverse, half = bool(node.attrs.get("inverse", 0)), bool(node.attrs.get("onesided", 0))
    count = x.shape[axis] if length is None else integers(length)[0]
    if inverse and half:
        bins = torch.complex(x[..., 0], x[..., 1])
        count = count if length is not None else 2 * (x.shape[axis] - 1)
        return [torch.fft.irfft(bins, count, axis)[..., None]]
    signal = x[..., 0] if x.shape[-1] == 1 else torch.complex(x[..., 0], x[..., 1])
    found = (torch.fft.ifft if inverse else torch.fft.fft)(signal, count, axis)
    if half:
        found = found.narrow(axis, 0, count // 2 + 1)
    return [torch.view_as_real(found)]


def stft(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Fourier transforms of the frames of a signal [N, samples, 1]."""
    x, step, window, length = (given(inputs, i) for i in range(4))
    if x.dim() == 3 and x.shape[-1] != 1:
        raise NoFunction(node, "complex signals")
    signal = x[..., 0] if x.dim() == 3 else x
    size = window.shape[0] if length is None else integers(length)[0]
    frames = signal.unfold(1, size, integers(step)[0])
    if window is not None:
        gap = size - window.shape[0]
        frames = frames * F.pad(window, [gap // 2, gap - gap // 2])
    half = bool(node.attrs.get("onesided", 1))
    return [torch.view_as_real(torch.fft.rfft(frames) if half else torch.fft.fft(frames))]
