"""Channels that carry nothing of their own: what they contribute can move elsewhere, and then nobody need read them.

Nobody reads a *dead* channel: every layer behind it has zero weights for it. A *constant* channel is the same number
for every input (see `hwpass.coupling.constant_channels`): the layers behind it take it into their biases. A *duplicate*
is made by the same weights as another channel of its group all the way: the layers behind it read the other instead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hwpass.coupling.constant_channels import Weight, added_bias, constants, plain_bias
from hwpass.coupling.groups import Coupling, Group
from hwpass.ops import Form, Node, Tensor, rule_for, traits_of
from hwpass.ops.axes import Factor
from hwpass.ops.constants import Known, Mask, padded

Ids = NDArray[np.int64]

NONE: Ids = np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class Reader:
    """A product that contracts channels: the component of each of its inputs, [in]."""

    node: Node
    weight: Weight
    components: Ids


@dataclass(eq=False)
class Redundancy:
    """What was found: components without a contribution of their own, and where the contributions go.

    `merged` maps a duplicate to the channel that is read in its place.
    """

    coupling: Coupling
    constant: Ids  # components that are dead or constant
    merged: Mapping[int, int]
    readers: list[Reader]
    known: Mapping[int, Known]

    @property
    def free(self) -> Ids:
        """Every component that nobody need read."""
        return np.concatenate([self.constant, np.asarray(sorted(self.merged), np.int64)])


def redundancy(coupling: Coupling) -> Redundancy:
    """Find the dead, constant and duplicate channels of a coupled model, by its weights as they now are."""
    survey = _Survey(coupling)
    known = constants(coupling)
    silent = survey.silent(lambda reader: _foldable(reader, known.get(id(reader.node.tensor(_data(reader.node))))))
    merged = _duplicates(survey, survey.grouped & ~survey.mixed & ~silent)
    return Redundancy(coupling, np.flatnonzero(silent), merged, survey.readers, known)


def silenced(coupling: Coupling, exempt: Callable[[Reader], Mask]) -> tuple[Mask, list[Reader]]:
    """Which components, [components], nothing but products reads, each with negligible weights or among the inputs [in]
    that are exempt; and all products that read channels."""
    survey = _Survey(coupling)
    return survey.silent(exempt), survey.readers


def unread(coupling: Coupling) -> Mask:
    """Which components nobody reads, [components]: every layer behind them has negligible weights for them."""
    return _Survey(coupling).silent(lambda reader: np.zeros(len(reader.components), bool))


def _data(node: Node) -> int:
    assert node.product is not None
    return node.product.data


def _foldable(reader: Reader, known: Known | None) -> Mask:
    """Which inputs are constants that the bias can take over, [in]."""
    width = len(reader.components)
    product = reader.node.product
    assert product is not None
    if known is None or known.place != product.data_axis or len(known.mask) != width:
        return np.zeros(width, bool)
    zero = known.mask & (known.values == 0)
    return known.mask if bias_place(reader) is not None and not padded(reader.node) else zero


def bias_place(reader: Reader) -> tuple[gs.Node, int] | None:
    """The node and the input that a bias stands at, or could; None where there is no such place."""
    node = reader.node
    form = _form(node)
    if plain_bias(node) is None or form.kind == "transposed":
        return None
    if form.bias:
        return node.gs, 2
    width = reader.weight.values.shape[1]
    holder, position = added_bias(node.gs.outputs[0], width)
    return None if holder is None else (holder, position)


def _of_matrices(node: Node) -> bool:
    """Whether it is a product of two computed matrices: nothing is added to it."""
    form = traits_of(node.gs).form
    return node.product is None and form is not None and form.kind == "matrix" and not form.bias


def _form(node: Node) -> Form:
    form = traits_of(node.gs).form
    assert form is not None
    return form


class _Survey:
    """How every component is read: by which products, and whether by anything that mixes it with others."""

    def __init__(self, coupling: Coupling) -> None:
        self.coupling = coupling
        self.count = int(coupling.component.max()) + 1
        self.mixed = np.zeros(self.count, bool)
        self.strange = np.zeros(self.count, bool)  # made by something whose weights are not compared
        self.readers: list[Reader] = []
        self._seen: dict[int, Ids] = {}
        for node in coupling.nodes:
            self._visit(node)
        self.mixed[0] = True
        self.grouped = np.zeros(self.count, bool)
        for group in coupling.groups:
            self.grouped[group.components] = True

    def silent(self, exempt: Callable[[Reader], Mask]) -> Mask:
        """Components that no product reads: its weights for them are negligible, or its inputs [in] are exempt."""
        found = self.grouped & ~self.mixed
        for reader in self.readers:
            idle = ~reader.weight.table().any(axis=0)
            found[reader.components[~(idle | exempt(reader))]] = False
        return found

    def _visit(self, node: Node) -> None:
        inputs = [self._of(t) for t in node.inputs]
        outputs = self._all([self._of(t) for t in node.outputs])
        variable = [p for p, t in enumerate(node.gs.inputs) if not isinstance(t, gs.Constant)]
        data = self._all([inputs[p] for p in variable])
        weight = Weight.of(node)
        if weight is not None:
            self._read(node, weight, inputs, variable)
        elif _of_matrices(node) and len(variable) == 2:
            self.mixed[np.setdiff1d(data, outputs)] = True
        elif node.frozen or not traits_of(node.gs).hands_on:
            self.mixed[data] = True
            self.strange[outputs] = True
            self.strange[self._all(inputs)] = True
        elif rule_for(node.gs).kind == "reduce":
            self.mixed[np.setdiff1d(data, outputs)] = True

    def _read(self, node: Node, weight: Weight, inputs: list[Ids], variable: list[int]) -> None:
        product = node.product
        assert product is not None
        self.mixed[self._all([inputs[p] for p in variable if p != product.data])] = True
        components = self.coupling.components_of(node.axes(product.data)[product.data_axis])
        if weight.into is not None and len(components) == weight.values.shape[weight.into]:
            self.readers.append(Reader(node, weight, components))
        elif weight.into is not None or _form(node).kind != "conv":
            self.mixed[components] = True

    def _of(self, tensor: Tensor | None) -> Ids:
        """The components of a tensor; two of them in one axis are taken to be mixed."""
        found = []
        for axis in (tensor.axes if tensor is not None else None) or ():
            live = [own for own in map(self._live, axis) if len(own)]
            if len(live) > 1:
                self.mixed[self._all(live)] = True
            found += live
        return self._all(found)

    def _live(self, factor: Factor) -> Ids:
        """The components of a factor that are not frozen."""
        if factor.ids is None:
            return NONE
        if id(factor.ids) not in self._seen:
            own = np.unique(self.coupling.component[factor.ids])
            self._seen[id(factor.ids)] = own[own != 0]
        return self._seen[id(factor.ids)]

    @staticmethod
    def _all(parts: list[Ids]) -> Ids:
        parts = [part for part in parts if len(part)]
        if len(parts) < 2:
            return parts[0] if parts else NONE
        return parts[0] if all(part is parts[0] for part in parts) else np.unique(np.concatenate(parts))

    def repeated(self) -> Mask:
        """Components that some array of ids holds more than once: their indices have no common order."""
        found = np.zeros(self.count, bool)
        for ids in self.coupling.build.arrays:
            own, counts = np.unique(self.coupling.component[ids], return_counts=True)
            found[own[counts > 1]] = True
        return found

    def makers(self) -> Iterator[tuple[Group, NDArray[Any], Ids]]:
        """Every constant that makes or changes channels of a group: its values along their axis first, and the

        positions [width, k] of the channels there.
        """
        groups = self.coupling.groups
        owner, place = np.full(self.count, -1, np.int64), np.zeros(self.count, np.int64)
        for number, group in enumerate(groups):
            owner[group.components], place[group.components] = number, np.arange(group.width)
        for (index, position), use in self.coupling.build.uses.items():
            node = self.coupling.nodes[index]
            product = node.product if Weight.of(node) is not None else None
            for number, axis in enumerate(use.axes or ()):
                if product is not None and position == product.weight and number == product.weight_in:
                    continue
                components = self.coupling.components_of(axis)
                for found in np.unique(owner[components]).tolist():
                    where = np.flatnonzero(owner[components] == found)
                    if found < 0:
                        continue
                    group = groups[found]
                    if len(where) % group.width:
                        self.strange[group.components] = True
                        continue
                    where = where[np.argsort(place[components[where]], kind="stable")]
                    values = np.moveaxis(node.gs.inputs[position].values, number, 0)
                    yield group, values, where.reshape(group.width, -1)


def _rows(values: NDArray[Any], positions: Ids) -> NDArray[Any]:
    """What a constant holds for channels at positions [units, k] of its first axis, [units, entries]."""
    found = np.ascontiguousarray(values[positions])
    return found.reshape(len(found), int(np.prod(found.shape[1:], dtype=np.int64)))


def _alike(survey: _Survey) -> Mask:
    """Components whose constants have the same sums of bits as those of another in their group: what is equal is."""
    sums: dict[str, list[NDArray[np.uint64]]] = {}
    for group, values, positions in survey.makers():
        rows = _rows(values, positions)
        bits = rows.view(f"u{min(rows.itemsize, 4)}")
        sums.setdefault(group.name, []).append(bits.sum(axis=1, dtype=np.uint64))
    found = np.zeros(survey.count, bool)
    for group in survey.coupling.groups:
        if group.name in sums:
            _, kinds, counts = np.unique(
                np.stack(sums[group.name], axis=1), axis=0, return_inverse=True, return_counts=True
            )
            found[group.components[counts[kinds.reshape(-1)] > 1]] = True
    return found


def _duplicates(survey: _Survey, eligible: Mask) -> dict[int, int]:
    """Channels that are another's equal, each with the first of its kind in its group."""
    marks: dict[int, Any] = {}
    alike = _alike(survey)
    for group, values, positions in survey.makers():
        units = np.flatnonzero(eligible[group.components] & alike[group.components])
        for unit, row in zip(units.tolist(), _rows(values, positions[units]), strict=True):
            mark = marks.setdefault(int(group.components[unit]), hashlib.blake2b())
            mark.update(row.tobytes())
    first: dict[tuple[str, bytes], int] = {}
    found = {}
    for group in survey.coupling.groups:
        for component in group.components.tolist():
            if component in marks:
                kept = first.setdefault((group.name, marks[component].digest()), component)
                if kept != component:
                    found[component] = kept
    if found:
        barred = survey.strange | survey.repeated()
        found = {c: kept for c, kept in found.items() if not barred[c]}
    return found
