"""Networks described in text: a builder that writes down the work of each fused kernel while a network is traced.

Shapes alone are followed (channels, height, width), so that a public architecture takes some ten lines, at any input
size and width. Batch normalization and activations are part of the kernel before them, as all accelerators run them;
sums, concatenations and pools are kernels of their own. Elements take one byte here: `in_format` scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hwpass.cost_models.work import Work


@dataclass(frozen=True)
class Map:
    """A feature map of c channels; `made` is the kernel that writes it, -1 for an input of the network."""

    c: int
    h: int
    w: int
    made: int = -1

    @property
    def size(self) -> int:
        """Elements."""
        return self.c * self.h * self.w


class Net:
    """The kernels of a network, in the order in which they run."""

    def __init__(self, channels: int, height: int, width: int | None = None) -> None:
        self.input = Map(channels, height, height if width is None else width)
        self._rows: list[dict[str, float | str]] = []
        self._edges: list[tuple[int, int, int, int]] = []

    def kernel(self, kind: str, op: str, reads: Sequence[Map], out: tuple[int, int, int], **figures: float) -> Map:
        """Any kernel: what it reads, the shape it writes, and the fields of Work that are not its bytes."""
        number = len(self._rows)
        made = Map(*out, made=number)
        row: dict[str, float | str] = {
            "kind": kind, "op": op, "taps": 1, "stride": 1, "groups": 1, "m": 0, "n": 0, "k": 0, "weights": 0,
            "read": sum(x.size for x in reads), "written": made.size, "elements": made.size,
        }  # fmt: skip
        self._rows.append({**row, **figures})
        self._edges += [(x.made, number, x.c, x.size) for x in reads]
        return made

    def conv(
        self, x: Map, n: int, size: int | tuple[int, int] = 1, stride: int = 1, groups: int = 1, act: str = "Relu",
        valid: bool = False,
    ) -> Map:  # fmt: skip
        """A convolution with what is fused behind it; `valid` leaves out the padding."""
        high, wide = (size, size) if isinstance(size, int) else size
        edge = (high - 1, wide - 1) if valid else (0, 0)
        h, w = -((x.h - edge[0]) // -stride), -((x.w - edge[1]) // -stride)
        k = x.c // groups
        kind = "conv" if groups == 1 else "depthwise" if k == 1 else "grouped"
        return self.kernel(
            kind, f"Conv+{act}" if act else "Conv", [x], (n, h, w), taps=high * wide, stride=stride * stride,
            groups=groups, m=h * w, n=n // groups, k=k, weights=n * k * high * wide + 4 * n,
        )  # fmt: skip

    def dw(self, x: Map, size: int = 3, stride: int = 1, act: str = "Relu") -> Map:
        """A depthwise convolution."""
        return self.conv(x, x.c, size, stride, groups=x.c, act=act)

    def transposed(self, x: Map, n: int, size: int = 2, stride: int = 2) -> Map:
        """A transposed convolution that scales by its stride."""
        out = (n, x.h * stride, x.w * stride)
        return self.kernel(
            "conv_transpose", "ConvTranspose+Relu", [x], out, taps=size * size, m=x.h * x.w, n=n, k=x.c,
            weights=n * x.c * size * size + 4 * n,
        )  # fmt: skip

    def dense(self, x: Map, n: int, act: str = "") -> Map:
        """A fully connected layer over the channels of every position (over all elements: flatten before)."""
        m = x.h * x.w
        op = "Gemm" if m == 1 else "MatMul+Add"
        return self.kernel(
            "matmul", f"{op}+{act}" if act else op, [x], (n, x.h, x.w), m=m, n=n, k=x.c, weights=n * x.c + 4 * n
        )

    def product(self, x: Map, y: Map, groups: int, m: int, k: int, n: int) -> Map:
        """A product of two activations: groups x (m x k by k x n)."""
        return self.kernel("matmul", "MatMul", [x, y], (groups * n, m, 1), groups=groups, m=m, k=k, n=n)

    def pool(self, x: Map, size: int = 2, stride: int = 2, op: str = "MaxPool", valid: bool = False) -> Map:
        """A pool."""
        edge = size - 1 if valid else 0
        out = (x.c, -((x.h - edge) // -stride), -((x.w - edge) // -stride))
        return self.kernel("pool", op, [x], out, taps=size * size, stride=stride * stride)

    def mean(self, x: Map) -> Map:
        """The mean of every channel."""
        return self.kernel("reduce", "GlobalAveragePool", [x], (x.c, 1, 1), elements=x.size)

    def add(self, *parts: Map, op: str = "Add") -> Map:
        """An elementwise operation with the shape of its largest operand."""
        largest = max(parts, key=lambda part: part.size)
        return self.kernel("elementwise", op, parts, (largest.c, largest.h, largest.w))

    def cat(self, *parts: Map) -> Map:
        """A concatenation of channels."""
        first = parts[0]
        return self.kernel("movement", "Concat", parts, (sum(p.c for p in parts), first.h, first.w), elements=0)

    def move(self, x: Map, out: tuple[int, int, int], op: str = "Transpose") -> Map:
        """Bytes that move: transposition, slice, channel shuffle."""
        return self.kernel("movement", op, [x], out, elements=0)

    def resize(self, x: Map, factor: float = 2) -> Map:
        """Interpolation."""
        return self.kernel("movement", "Resize", [x], (x.c, round(x.h * factor), round(x.w * factor)))

    def view(self, x: Map, out: tuple[int, int, int]) -> Map:
        """The same bytes seen in another shape."""
        return replace(x, c=out[0], h=out[1], w=out[2])

    def flat(self, x: Map) -> Map:
        """All elements as channels."""
        return self.view(x, (x.size, 1, 1))

    def norm(self, x: Map) -> Map:
        """A normalization that has to read its input at run time."""
        return self.kernel("normalization", "LayerNormalization", [x], (x.c, x.h, x.w), elements=4 * x.size)

    def softmax(self, x: Map) -> Map:
        """A softmax."""
        return self.kernel("softmax", "Softmax", [x], (x.c, x.h, x.w), elements=4 * x.size)

    def se(self, x: Map, squeezed: int, act: str = "Relu") -> Map:
        """Squeeze and excitation."""
        scale = self.conv(self.conv(self.mean(x), squeezed, act=act), x.c, act="Sigmoid")
        return self.add(x, scale, op="Mul")

    def work(self) -> Work:
        """What was written down, as the work of one plan with elements of one byte."""
        rows, edges = self._rows, self._edges

        def column(key: str) -> np.ndarray:
            return np.array([[float(row[key]) for row in rows]])

        return Work(
            kind=np.array([str(row["kind"]) for row in rows]),
            itemsize=np.ones(len(rows)),
            taps=column("taps")[0],
            stride=column("stride")[0],
            groups=column("groups"),
            m=column("m"),
            n=column("n"),
            k=column("k"),
            read=column("read"),
            written=column("written"),
            weights=column("weights"),
            elements=column("elements"),
            source=np.array([edge[0] for edge in edges], np.int64),
            sink=np.array([edge[1] for edge in edges], np.int64),
            channels=np.array([[edge[2] for edge in edges]], np.float64),
            bytes=np.array([[edge[3] for edge in edges]], np.float64),
            op=np.array([str(row["op"]) for row in rows]),
            axes=np.full(len(rows), 2, np.int64),
        )


def in_format(work: Work, itemsize: float) -> Work:
    """The same work with elements and constants of `itemsize` bytes."""
    scale = itemsize / work.itemsize
    edges = itemsize / work.itemsize[work.sink]
    return replace(
        work,
        itemsize=np.full_like(work.itemsize, itemsize),
        read=work.read * scale,
        written=work.written * scale,
        weights=work.weights * scale,
        bytes=work.bytes * edges,
    )
