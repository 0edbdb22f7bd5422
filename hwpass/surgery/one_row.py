"""Convolutions over sequences [N, C, L], written as convolutions over images of one row, [N, C, 1, L].

Runtimes keep their fastest kernels, and their blocked channel layouts, for images.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx_graphsurgeon as gs

from hwpass.model.model import Model
from hwpass.model.node_order import put_in_order, reads
from hwpass.ops import rule_for, traits_of
from hwpass.ops.planar import Planar
from hwpass.surgery.computed_shapes import known_shapes

#: The axis that the row gets.
ROW = 2


def sequences(model: Model) -> list[gs.Node]:
    """The convolutions of the main graph whose windows have one axis and constant weights."""
    return [node for node in model.graph.nodes if _seed(node)]


def in_one_row(model: Model) -> bool:
    """Write the convolutions over sequences as such over images, with all around them that can follow; whether any was.

    Values stay what they are: every output of the model is computed by the same sums.
    """
    if not sequences(model):
        return False
    rewrite = _Rewrite(model)
    region = rewrite.region()
    if not region:
        return False
    rewrite.apply(region)
    model.graph.cleanup(remove_unused_node_outputs=False)
    put_in_order(model.graph)
    model.invalidate_shapes()
    return True


def _seed(node: gs.Node) -> bool:
    form = traits_of(node).form
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    return form is not None and form.kind == "conv" and isinstance(weight, gs.Constant) and weight.values.ndim == 3


class _Rewrite:
    """One graph, the nodes of it that can be written over images, and the tensors that get a row."""

    def __init__(self, model: Model) -> None:
        self.graph, self.opset = model.graph, model.opset
        self.shapes = known_shapes(model)
        self.makers = {t.name: node for node in self.graph.nodes for t in node.outputs if t.name}
        self.readers: dict[str, list[gs.Node]] = defaultdict(list)
        for node in self.graph.nodes:
            for name in reads(node):
                self.readers[name].append(node)
        self.ends = {t.name for t in self.graph.outputs}
        self.taken = {t.name for node in self.graph.nodes for t in (*node.inputs, *node.outputs)} | self.ends
        self.constants: dict[tuple[str, tuple[int, ...]], gs.Constant] = {}
        self.rows: dict[str, gs.Tensor] = {}  # by name of the tensor without one
        self.planar = {id(node): found for node in self.graph.nodes if (found := self._planar(node)) is not None}

    def _rank(self, tensor: gs.Tensor) -> int | None:
        if isinstance(tensor, gs.Constant):
            return int(tensor.values.ndim)
        shape = self.shapes.get(tensor.name)
        return None if shape is None else len(shape)

    def _planar(self, node: gs.Node) -> Planar | None:
        """What changes in a node; None where it cannot follow, or has another input than sequences first."""
        if not node.inputs or (isinstance(node.inputs[0], gs.Constant) and traits_of(node).form is not None):
            return None
        ranks = [self._rank(tensor) for tensor in node.inputs]
        data = [r for t, r in zip(node.inputs, ranks, strict=True) if t.name and not isinstance(t, gs.Constant)]
        if 3 not in data or any(reads(node) - {t.name for t in node.inputs}):
            return None
        found = rule_for(node).planar(node, ranks)
        if found is not None and found.follows and any(self._rank(t) not in (3, None) for t in node.outputs):
            return None
        return found

    def region(self) -> list[gs.Node]:
        """The convolutions, and what hangs on them by sequences alone."""
        inside: dict[int, gs.Node] = {}
        waiting = [node for node in self.graph.nodes if _seed(node) and id(node) in self.planar]
        while waiting:
            node = waiting.pop()
            if id(node) in inside:
                continue
            inside[id(node)] = node
            for tensor in self._data(node):
                maker = self.makers.get(tensor.name)
                if maker is not None and id(maker) in self.planar and self.planar[id(maker)].follows:
                    waiting.append(maker)
            if self.planar[id(node)].follows:
                behind = [reader for tensor in node.outputs for reader in self.readers[tensor.name]]
                waiting += [reader for reader in behind if id(reader) in self.planar]
        return [node for node in self.graph.nodes if id(node) in inside]

    def _data(self, node: gs.Node) -> list[gs.Tensor]:
        """The inputs of a node that get a row."""
        return [t for t in node.inputs if t.name and not isinstance(t, gs.Constant) and self._rank(t) == 3]

    def apply(self, region: list[gs.Node]) -> None:
        """Change the nodes; give tensors a row on the way in, and take it on the way out where others read them."""
        inside = {id(node) for node in region}
        for node in region:
            found = self.planar[id(node)]
            for position, tensor in enumerate(list(node.inputs)):
                if position in found.constants:
                    node.inputs[position] = self._constant(tensor, found.constants[position])
                elif any(tensor is each for each in self._data(node)):
                    node.inputs[position] = self._with_row(tensor, inside)
            node.attrs.update(found.attributes)
            for position, tensor in enumerate(list(node.outputs)):
                if found.follows and tensor.name:
                    node.outputs[position] = row = self._with_row(tensor, inside)
                    if self._read_outside(tensor, inside):
                        self._axes_step("Squeeze", row, tensor)

    def _constant(self, tensor: gs.Tensor, values: np.ndarray) -> gs.Constant:
        """A constant of other extents; readers of one constant share what becomes of it."""
        known = self.constants.get((tensor.name, values.shape))
        if known is None:
            known = gs.Constant(self._fresh(f"{tensor.name}_row"), np.ascontiguousarray(values))
            self.constants[tensor.name, values.shape] = known
        return known

    def _with_row(self, tensor: gs.Tensor, inside: set[int]) -> gs.Tensor:
        """The tensor with a row, made of the one without where no node inside makes it."""
        if tensor.name not in self.rows:
            row = self.rows[tensor.name] = gs.Variable(self._fresh(f"{tensor.name}_row"))
            maker = self.makers.get(tensor.name)
            if maker is None or id(maker) not in inside or not self.planar[id(maker)].follows:
                self._axes_step("Unsqueeze", tensor, row)
        return self.rows[tensor.name]

    def _read_outside(self, tensor: gs.Tensor, inside: set[int]) -> bool:
        return tensor.name in self.ends or any(id(node) not in inside for node in self.readers[tensor.name])

    def _axes_step(self, op: str, source: gs.Tensor, result: gs.Tensor) -> None:
        """A node that gives a tensor its row, or takes it."""
        step = gs.Node(op, self._fresh(f"{result.name}_{op.lower()}"), {}, [source])
        if self.opset < 13:
            step.attrs["axes"] = [ROW]
        else:
            step.inputs.append(gs.Constant(self._fresh(f"{result.name}_axis"), np.asarray([ROW], np.int64)))
        step.outputs = [result]
        self.graph.nodes.append(step)

    def _fresh(self, name: str) -> str:
        found, number = name, 0
        while found in self.taken:
            number += 1
            found = f"{name}_{number}"
        self.taken.add(found)
        return found
