"""What the weights of a pruned model are fitted on: which batches, which rows of the original, how much in memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from hwpass.coupling.groups import Coupling
from hwpass.data.dense_rows import DenseRows, Wish
from hwpass.data.row_table import Room
from hwpass.data.sizes import peak_bytes
from hwpass.ops import Node, traits_of
from hwpass.runtime.calibration import Calibration
from hwpass.runtime.sessions import Feed
from hwpass.runtime.settings import Settings
from hwpass.spans import span

#: Share of the rows that choose lambda and judge the step; they never enter a fit.
HELD_OUT = 0.2

#: Most bytes of the rows of one product, and of those of many small ones side by side, as in a depthwise layer.
ROW_BYTES, GROUPED_BYTES = 192 << 20, 48 << 20

#: Samples that go through a few layers at once: as many as their activations leave room for, and no more than that.
BATCH = 32
BATCH_BYTES = 24 << 20

#: A fit wants so many rows for each number that an output of the original is made of, and at least such a share of the
#: most: neighbours in an image are much alike, so that these are many more than there are unknowns.
ROWS_EACH = 64
LEAST_SHARE = 2

#: Bytes of activations, and of rows of the original, that stay in memory where the user gave data, and where not.
HELD, HELD_WITHOUT_DATA = 384 << 20, 12 << 20

#: Sums behind a product that are looked at: those that `product_tail.follow` may come to.
SUMS = 3


def batch_size(coupling: Coupling) -> int:
    """How many samples may be run at once at the analysed extents, 1 to BATCH."""
    return int(np.clip(BATCH_BYTES // max(peak_bytes(coupling.build), 1), 1, BATCH))


def held_bytes(settings: Settings) -> int:
    """Bytes of activations that may stay in memory: a run without data has a bound that its model alone decides."""
    return HELD if settings.calibration is not None else HELD_WITHOUT_DATA


def feeds(calibration: Calibration, size: int, samples: int) -> Iterator[Feed]:
    """The batches of a fit; the last of them judge, and come from all over the data, which may be sorted."""
    every = round(1 / HELD_OUT)
    for last in (False, True):
        for number, batch in enumerate(calibration.batches(size, limit=samples)):
            if (number % every == every - 1) is last:
                yield batch


@span("the original's outputs")
def dense_rows(
    coupling: Coupling, calibration: Calibration, settings: Settings, *, samples: int, rows: int
) -> DenseRows:
    """Up to about `rows` rows of every layer of the original that may be fitted, on `samples` samples at most."""
    model = coupling.build.model
    outer = {id(n) for n in model.graph.nodes}
    wishes = {n.index: wish for n in coupling.nodes if id(n.gs) in outer and (wish := _wish(n, rows)) is not None}
    return DenseRows(
        model, wishes, feeds(calibration, batch_size(coupling), samples), min(len(calibration), samples),
        room=Room(held_bytes(settings)), threads=settings.threads, seed=settings.seed, progress=settings.progress,
    )  # fmt: skip


def rows_for(columns: int, groups: int, most: int) -> int:
    """How many rows `groups` products are fitted on whose outputs are made of so many `columns` each."""
    wanted = min(most, max(most // LEAST_SHARE, ROWS_EACH * columns))
    bound = ROW_BYTES if groups == 1 else GROUPED_BYTES
    return min(wanted, max(1024, bound // (4 * max(columns * groups, 1))))


def kind_of(node: Node) -> str:
    """What a node's weights are to its input; nothing where it has none."""
    form = traits_of(node.gs).form
    return form.kind if form is not None else ""


def _wish(node: Node, most: int) -> Wish | None:
    kind, product = kind_of(node), node.product
    output = node.gs.outputs[0].name
    if kind == "channels":
        return Wish(output, 1, rows_for(1, 1, most))
    if product is None or product.data != 0 or product.weight != 1 or not isinstance(node.gs.inputs[1], gs.Constant):
        return None
    shape = node.gs.inputs[1].shape
    if kind == "recurrent":
        return Wish(node.gs.inputs[0].name, -1, rows_for(shape[-1], 1, most))
    if kind in ("conv", "transposed"):
        groups = int(node.gs.attrs.get("group", 1))
        inputs = shape[1] if kind == "conv" else shape[0] // groups
        columns = int(inputs * np.prod(shape[2:]))
        return Wish(output, 1, rows_for(columns, groups, most), _beside(node.gs.outputs[0]))
    if kind != "matrix" or len(shape) != 2:
        return None
    columns = shape[1 - product.weight_out]
    return Wish(output, -1, rows_for(columns, 1, most), _beside(node.gs.outputs[0]))


def _beside(tensor: gs.Tensor) -> tuple[str, ...]:
    """What is added to a tensor behind it: where branches go, sums are left that are further behind."""
    found: list[str] = []
    layer = [tensor]
    for _ in range(SUMS):
        sums = [reader for t in layer for reader in t.outputs if reader.op == "Add" and reader.outputs]
        found += [
            t.name for s in sums for t in s.inputs if isinstance(t, gs.Variable) and all(t is not o for o in layer)
        ]
        layer = [s.outputs[0] for s in sums]
    return tuple(dict.fromkeys(found))
