"""Networks of ncnn's benchmark rebuilt as Work from a table of their layers (type, blobs, shapes, window, weights)."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from hwpass.cost_models.work import Work
from public_latency.layers import FP32, Kernel, work_of_kernels

#: Kind and ONNX operator of a layer; layers without a product.
_PLAIN = {
    "BinaryOp": ("elementwise", "Add"),
    "Eltwise": ("elementwise", "Add"),
    "ReLU": ("elementwise", "Relu"),
    "Swish": ("elementwise", "Sigmoid+Mul"),
    "Sigmoid": ("elementwise", "Sigmoid"),
    "GELU": ("elementwise", "Gelu"),
    "BatchNorm": ("elementwise", "BatchNormalization"),
    "LRN": ("normalization", "LRN"),
    "LayerNorm": ("normalization", "LayerNormalization"),
    "Pooling": ("pool", "MaxPool"),
    "Reduction": ("reduce", "ReduceMean"),
    "Softmax": ("softmax", "Softmax"),
    "Concat": ("movement", "Concat"),
    "Slice": ("movement", "Split"),
    "Crop": ("movement", "Slice"),
    "ShuffleChannel": ("movement", "Transpose"),
    "Permute": ("movement", "Transpose"),
    "Interp": ("movement", "Resize"),
    "Padding": ("movement", "Pad"),
    "PriorBox": ("other", "PriorBox"),
}
#: Layers that hand their input on, or whose cost is not that of a kernel.
_VIEWS = ("Split", "Reshape", "Flatten", "Noop", "Dropout", "Input", "MemoryData")


def networks(data: Path) -> dict[str, Work]:
    """The Work of every network of `ncnn_layers.csv`, by name; one without a shape that is needed is left out."""
    layers: dict[str, list[dict[str, str]]] = defaultdict(list)
    with (data / "ncnn_layers.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            layers[row["network"]].append(row)
    return {name: work_of_kernels(_Builder(rows).kernels) for name, rows in layers.items()}


class _Builder:
    """Kernels of one network, in order; `made` says which kernel wrote a blob, and its shape."""

    def __init__(self, rows: list[dict[str, str]]) -> None:
        self.kernels: list[Kernel] = []
        self.made: dict[str, tuple[int, list[float]]] = {}
        for row in rows:
            self._add(row)

    def _add(self, row: Mapping[str, str]) -> None:
        kind, into, out = row["type"], _shape(row["in_shape_chw"]), _shape(row["out_shape_chw"])
        bottoms, tops = _names(row["bottoms"]), _names(row["tops"])
        if kind in _VIEWS:
            source = self.made[bottoms[0]][0] if bottoms and bottoms[0] in self.made else -1
            for top in tops:
                self.made[top] = (source, out or into)
            return
        inputs = [self.made.get(name, (-1, into)) for name in bottoms]
        edges = [(source, shape[0] if shape else 1.0, prod(shape) * FP32) for source, shape in inputs]
        if kind == "MultiHeadAttention":
            self._attention(row, into, edges)
        else:
            self.kernels.append(_kernel(row, into, out, edges))
        for top in tops:
            self.made[top] = (len(self.kernels) - 1, out)

    def _attention(self, row: Mapping[str, str], shape: list[float], edges: list[tuple[int, float, float]]) -> None:
        """Four projections, and two products and a softmax between them. Heads of 64, as vision transformers have."""
        rows, width = shape
        heads = max(1.0, width // 64)
        size = rows * width * FP32
        first = len(self.kernels)
        for _ in range(3):
            self._product(rows, width, width, [edges[0]], weights=width * width * FP32)
        scores = heads * rows * rows * FP32
        self._product(rows, rows, width / heads, [(first, rows, size), (first + 1, rows, size)], heads)
        inputs = [(first + 3, heads, scores)]
        self.kernels.append(Kernel("softmax", "Softmax", read=scores, written=scores, inputs=inputs))
        self._product(rows, width / heads, rows, [(first + 4, heads, scores), (first + 2, rows, size)], heads)
        self._product(rows, width, width, [(first + 5, rows, size)], weights=width * width * FP32)

    def _product(
        self,
        m: float,
        n: float,
        k: float,
        inputs: list[tuple[int, float, float]],
        groups: float = 1,
        weights: float = 0,
    ) -> None:
        self.kernels.append(
            Kernel(
                "matmul", "MatMul", groups, m, n, k, written=groups * m * n * FP32, weights=weights, axes=0,
                read=sum(size for _, _, size in inputs), inputs=inputs,
            )
        )  # fmt: skip


def _kernel(
    row: Mapping[str, str], into: list[float], out: list[float], edges: list[tuple[int, float, float]]
) -> Kernel:
    """A layer that is one kernel. A fused activation is one scalar operation per output."""
    kind = row["type"]
    read, written = sum(size for _, _, size in edges), prod(out) * FP32 if out else 0.0
    weights = _number(row["weight_elems"], 0.0)
    whole = kind == "Pooling" and not row["kh"].isdigit()  # the window is the image
    taps = prod(into[1:]) if whole else _number(row["kh"], 1.0) * _number(row["kw"], row["kh"] or 1.0)
    stride = _number(row["stride_h"], 1.0) * _number(row["stride_w"], row["stride_h"] or 1.0)
    common: dict[str, Any] = {"read": read, "written": written, "weights": weights * FP32, "inputs": edges}
    activation = {"1": "+Relu", "2": "+LeakyRelu", "3": "+Clip", "4": "+Sigmoid"}.get(row["activation"], "")
    elements = prod(out) if activation else 0.0
    if kind in ("InnerProduct", "Gemm"):
        rows = into[0] if kind == "Gemm" else 1.0
        depth = into[1] if kind == "Gemm" else prod(into)
        return Kernel("matmul", "Gemm" + activation, 1, rows, out[-1], depth, elements=elements, axes=0, **common)
    if kind.startswith(("Convolution", "Deconvolution")):
        groups = _number(row["groups"], 1.0) or 1.0
        turned = kind.startswith("De")
        per_in, per_out = into[0] / groups, out[0] / groups
        name = "conv_transpose" if turned else "conv"
        if groups > 1 and not turned:
            name = "depthwise" if per_in == per_out == 1 else "grouped"
        return Kernel(
            name, ("ConvTranspose" if turned else "Conv") + activation, groups, prod((into if turned else out)[1:]),
            per_out, per_in, taps, stride, elements=elements, **common,
        )  # fmt: skip
    name, op = _PLAIN.get(kind, ("other", kind))
    op = "GlobalAveragePool" if whole else op
    return Kernel(name, op, 1, taps=taps, stride=stride, elements=prod(out) if out else 0.0, **common)


def _names(text: str) -> list[str]:
    return [name for name in text.split("|") if name]


def _number(text: str, default: float | str) -> float:
    return float(text) if text else float(default)


def _shape(text: str) -> list[float]:
    return [float(part) for part in text.split("x")] if text else []
