"""Images of another size, and images seen through a grid or in regions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hwpass.ops.functions.common import F, NoFunction, given, integers, text, torch

Floats = NDArray[np.float64]


def resize(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """The image resampled axis by axis: linear and cubic are products of what they are along each axis."""
    x, roi, scales, sizes = (given(inputs, i) for i in range(4))
    if node.op == "Upsample" or opset < 11:
        roi, scales, sizes = None, given(inputs, 1), None
    rank = x.dim()
    axes = [a % rank for a in integers(node.attrs.get("axes") or list(range(rank)))]
    if scales is None or not scales.numel():
        given_scales = node.attrs.get("scales")
        factors = [float(s) for s in given_scales] if given_scales is not None else None
    else:
        factors = [float(s) for s in scales.tolist()]
    image = [x.shape[a] for a in axes]
    if sizes is not None and sizes.numel():
        wanted, factors = _wanted(node, image, integers(sizes))
    elif factors is not None:
        wanted = [math.floor(s * f) for s, f in zip(image, factors, strict=True)]
    else:
        raise NoFunction(node, "neither scales nor sizes")
    kind = _Kind(node, opset)
    quick = _interpolated(kind, x, axes, factors, wanted)
    if quick is not None:
        return [quick]
    regions = [0.0] * len(axes) + [1.0] * len(axes) if roi is None or not roi.numel() else roi.tolist()
    for i, axis in enumerate(axes):
        if factors[i] == 1 and wanted[i] == image[i] and kind.coordinates != "tf_crop_and_resize":
            continue
        x = kind.along(x, axis, factors[i], wanted[i], regions[i], regions[len(axes) + i])
    return [x]


def _wanted(node: gs.Node, image: list[int], sizes: list[int]) -> tuple[list[int], list[float]]:
    """The extents that `sizes` ask for, and the scales that follow."""
    policy = text(node, "keep_aspect_ratio_policy", "stretch")
    factors = [w / s for w, s in zip(sizes, image, strict=True)]
    if policy == "stretch":
        return sizes, factors
    factor = min(factors) if policy == "not_larger" else max(factors)
    # Half goes up.
    return [math.floor(factor * s + 0.5) for s in image], [factor] * len(image)


class _Kind:
    """How a node resamples."""

    def __init__(self, node: gs.Node, opset: int) -> None:
        old = opset < 11 or node.op == "Upsample"
        self.node = node
        self.mode = text(node, "mode", "nearest")
        self.coordinates = "asymmetric" if old else text(node, "coordinate_transformation_mode", "half_pixel")
        self.nearest = "floor" if old else text(node, "nearest_mode", "round_prefer_floor")
        self.cubic = float(node.attrs.get("cubic_coeff_a", -0.75))
        self.outside = bool(node.attrs.get("exclude_outside", 0))
        self.beyond = float(node.attrs.get("extrapolation_value", 0.0))
        self.antialias = bool(node.attrs.get("antialias", 0))
        if self.mode not in ("nearest", "linear", "bilinear", "cubic"):
            raise NoFunction(node, f"the mode {self.mode}")

    def along(self, x: Any, axis: int, factor: float, size: int, start: float, end: float) -> Any:
        """The image resampled along one axis."""
        length = x.shape[axis]
        places = self._places(factor, length, size, start, end)
        if self.mode == "nearest":
            index = np.clip(self._rounded(places), 0, length - 1).astype(np.int64)
            y = x.index_select(axis, torch.from_numpy(index))
        else:
            y = self._weighted(x, axis, places, factor)
        if self.coordinates == "tf_crop_and_resize":
            outside = torch.from_numpy((places < 0) | (places > length - 1))
            shape = [-1 if i == axis else 1 for i in range(x.dim())]
            y = torch.where(outside.reshape(shape), torch.full((), self.beyond, dtype=y.dtype), y)
        return y

    def _places(self, factor: float, length: int, size: int, start: float, end: float) -> Floats:
        """Where in the image the indices of the result lie."""
        i, mode, factor = np.arange(size, dtype=np.float32), self.coordinates, float(factor)
        if mode == "asymmetric":
            return np.asarray(i / factor)
        if mode == "align_corners":
            if not math.isclose(factor * length, size, rel_tol=1e-6):
                raise NoFunction(self.node, "align_corners where the scaled extent is no whole number")
            return np.asarray(i * (length - 1) / (size - 1) if size > 1 else i * 0)
        if mode == "tf_crop_and_resize":
            if size == 1:
                return np.asarray([0.5 * (start + end) * (length - 1)])
            return np.asarray(start * (length - 1) + i * (end - start) * (length - 1) / (size - 1))
        half = (i + 0.5) / factor - 0.5
        if mode == "half_pixel":
            return np.asarray(half)
        if mode == "pytorch_half_pixel":
            return np.asarray(half if size > 1 else i * 0)
        if mode == "half_pixel_symmetric":
            return np.asarray(length / 2 * (1 - size / (factor * length)) + half)
        if mode == "tf_half_pixel_for_nn":
            return np.asarray(half + 0.5)
        raise NoFunction(self.node, f"the coordinates {mode}")

    def _rounded(self, places: Floats) -> Floats:
        if self.nearest == "floor":
            return np.floor(places)
        if self.nearest == "ceil":
            return np.ceil(places)
        if self.nearest == "round_prefer_floor":
            return np.ceil(places - 0.5)
        if self.nearest == "round_prefer_ceil":
            return np.floor(places + 0.5)
        raise NoFunction(self.node, f"the rounding {self.nearest}")

    def _weighted(self, x: Any, axis: int, places: Floats, factor: float) -> Any:
        """Sums of neighbours with the weights of a kernel, wider where it smoothes a smaller image."""
        length, reach = x.shape[axis], 2 if self.mode == "cubic" else 1
        narrow = min(factor, 1.0) if self.antialias else 1.0
        below = np.floor(places)
        shares = places - below
        first = math.floor(-reach / narrow) + 1
        taps = [first + i for i in range(2 - 2 * first)] if narrow < 1 else list(range(1 - reach, 1 + reach))
        weights = np.stack([self._kernel(np.abs(tap - shares) * narrow) for tap in taps])
        index = np.stack([below + tap for tap in taps]).astype(np.int64)
        if self.outside or narrow < 1:
            weights = np.where((index < 0) | (index >= length), 0.0, weights) if self.outside else weights
            weights = weights / weights.sum(0)
        index = index.clip(0, length - 1)
        shape, y = [-1 if i == axis else 1 for i in range(x.dim())], None
        for row, part in zip(index, weights, strict=True):
            if not part.any():
                continue
            share = torch.from_numpy(part).to(x.dtype).reshape(shape)
            term = x.index_select(axis, torch.from_numpy(row)) * share
            y = term if y is None else y + term
        return y

    def _kernel(self, distance: Floats) -> Floats:
        if self.mode != "cubic":
            return np.clip(1 - distance, 0, 1)
        a, s = self.cubic, distance
        near = ((a + 2) * s - (a + 3)) * s * s + 1
        far = ((a * s - 5 * a) * s + 8 * a) * s - 4 * a
        return np.where(s <= 1, near, np.where(s < 2, far, 0.0))


def _interpolated(kind: _Kind, x: Any, axes: list[int], factors: list[float], wanted: list[int]) -> Any:
    """Torch's own for the usual cases of two axes of an image; None for any other."""
    by_axis = dict(zip(axes, zip(factors, wanted, strict=True), strict=True))
    changed = {a: v for a, v in by_axis.items() if v != (1.0, x.shape[a])}
    if x.dim() != 4 or not changed or min(changed) < 2 or kind.antialias or not x.is_floating_point():
        return None
    size = [by_axis.get(a, (1.0, x.shape[a]))[1] for a in (2, 3)]
    exact = all(math.isclose(f * x.shape[a], w, rel_tol=1e-6) for a, (f, w) in by_axis.items())
    if not exact or min(size) < 1:
        return None
    if kind.mode in ("linear", "bilinear"):
        if kind.coordinates == "align_corners" and min(size) > 1:
            return F.interpolate(x, size, mode="bilinear", align_corners=True)
        if kind.coordinates in ("half_pixel", "pytorch_half_pixel") and (
            kind.coordinates == "half_pixel" or min(size) > 1
        ):
            return F.interpolate(x, size, mode="bilinear", align_corners=False)
    whole = all(f == round(f) for f in factors)
    if kind.mode == "nearest" and kind.coordinates == "asymmetric" and kind.nearest == "floor" and whole:
        return F.interpolate(x, size, mode="nearest")
    return None


def grid_sample(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Images resampled at a grid of coordinates."""
    x, grid = inputs
    mode = text(node, "mode", "linear" if opset >= 20 else "bilinear")
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    if x.dim() not in (4, 5) or (x.dim() == 5 and mode == "bicubic"):
        raise NoFunction(node, f"{mode} sampling of images of {x.dim() - 2} axes")
    corners = bool(node.attrs.get("align_corners", 0))
    return [F.grid_sample(x, grid, mode, text(node, "padding_mode", "zeros"), corners)]


def affine_grid(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """A grid of coordinates that an affine map moves."""
    return [F.affine_grid(inputs[0], integers(inputs[1]), bool(node.attrs.get("align_corners", 0)))]


def roi_align(node: gs.Node, inputs: list[Any], opset: int) -> Sequence[Any]:
    """Averages of an image over the cells of regions [R, (x1, y1, x2, y2)]."""
    x, rois, batch = inputs
    if text(node, "mode", "avg") != "avg":
        raise NoFunction(node, "the mode max")
    half = (
        text(node, "coordinate_transformation_mode", "half_pixel" if opset >= 16 else "output_half_pixel")
        == "half_pixel"
    )
    scale, ratio = float(node.attrs.get("spatial_scale", 1.0)), int(node.attrs.get("sampling_ratio", 0))
    cells = [int(node.attrs.get(name, 1)) for name in ("output_height", "output_width")]
    found = []
    for region, sample in zip(rois * scale - (0.5 if half else 0.0), batch.tolist(), strict=True):
        rows = [_cells(region[1 - i], region[3 - i], cells[i], ratio, half, x.shape[2 + i]) for i in range(2)]
        seen = torch.einsum("ah,chw,bw->cab", rows[0].to(x.dtype), x[sample], rows[1].to(x.dtype))
        found.append(seen)
    return [torch.stack(found) if found else x.new_zeros(0, x.shape[1], *cells)]


def _cells(start: Any, end: Any, count: int, ratio: int, half: bool, size: int) -> Any:
    """How much of every index of an axis the cells of a region average, [count, size]."""
    length = end - start
    length = length if half else length.clamp(min=1.0)
    samples = ratio or max(math.ceil(float(length) / count), 1)
    steps = (torch.arange(count * samples, dtype=length.dtype) + 0.5) / samples
    place = start + steps * (length / count)
    inside = (place >= -1) & (place <= size)
    place = place.clamp(0, size - 1)
    distance = (place[:, None] - torch.arange(size, dtype=place.dtype)[None]).abs()
    weights = (1 - distance).clamp(min=0) * inside[:, None]
    return weights.reshape(count, samples, size).mean(1)
