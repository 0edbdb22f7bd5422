"""Channels that hardly vary on the data: their means go into the biases behind them, and they are removed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwpass.coupling.groups import Coupling, couple
from hwpass.coupling.redundant_channels import Reader, Redundancy, bias_place, silenced
from hwpass.data.activation_statistics import moments
from hwpass.model.model import Model
from hwpass.ops.constants import Known, padded
from hwpass.planning.allocation import choices, steps
from hwpass.planning.plan import Plan
from hwpass.planning.removal import operate
from hwpass.planning.stages import Pruned
from hwpass.runtime.calibration import Calibration
from hwpass.runtime.settings import Settings
from hwpass.surgery.declared import MaskedWeight, Masks
from hwpass.surgery.redirection import redirected

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Moments = Mapping[str, tuple[Floats, Floats]]


@dataclass(frozen=True)
class Idle:
    """Channels that go: the model in which nobody reads them, what is said of that one, and it without them."""

    unread: Model
    masks: Masks
    pruned: Pruned
    counts: Mapping[str, tuple[int, int]]  # per group: channels before and after


def idle(model: Model, data: Calibration, context: Settings, most: float, align: int) -> Idle | None:
    """Remove what gives each of its readers less than a share `most` of what varies in their outputs, all such
    channels together. None where there is nothing of the kind."""
    changed = model.copy()
    own = couple(changed, {})
    _, readers = silenced(own, lambda reader: np.zeros(len(reader.components), bool))
    taps = {_data(reader): _axis(reader) for reader in readers}
    found = moments(model, taps, data, threads=context.threads, progress=context.progress)
    shares = [(reader, _shares(reader, found)) for reader in readers]
    chosen = _chosen(own, shares, most)
    silent, _ = silenced(own, lambda reader: chosen[reader.components])
    removed = _aligned(own, silent & chosen, shares, align)
    if not removed.any():
        return None
    known = {id(r.node.tensor(_position(r))): _known(r, found, removed) for r, _ in shares if _data(r) in found}
    places = redirected(own, Redundancy(own, np.flatnonzero(removed), {}, readers, known))
    masks = _declared(own, readers, removed, places)
    kept = [np.flatnonzero(~removed[group.components]) for group in own.groups]
    pruned = operate(own, Plan.of(own, kept, ""), context)
    counts = {g.name: (g.width, len(k)) for g, k in zip(own.groups, kept, strict=True) if len(k) < g.width}
    return Idle(changed, masks, pruned, counts)


def _position(reader: Reader) -> int:
    assert reader.node.product is not None
    return reader.node.product.data


def _data(reader: Reader) -> str:
    return str(reader.node.gs.inputs[_position(reader)].name)


def _axis(reader: Reader) -> int:
    assert reader.node.product is not None
    return reader.node.product.data_axis


def _shares(reader: Reader, found: Moments) -> Floats | None:
    """What each input gives of what varies in the reader's output, [in]; None where it was not seen.

    Covariances are left out. A constant that meets zero padding, or whose reader has no place for a bias, counts with
    all its power.
    """
    if _data(reader) not in found or reader.weight.into is None:
        return None
    mean, square = found[_data(reader)]
    if len(mean) != len(reader.components):
        return None
    alone = padded(reader.node) or bias_place(reader) is None
    power = square if alone else np.maximum(square - np.square(mean), 0)
    others = tuple(axis for axis in range(reader.weight.values.ndim) if axis != reader.weight.into)
    each = power * np.square(reader.weight.values.astype(np.float64)).sum(axis=others)
    return np.asarray(each / max(float(each.sum()), 1e-300))


def _chosen(coupling: Coupling, shares: list[tuple[Reader, Floats | None]], most: float) -> Mask:
    """Components that may go together, the least first, [components]."""
    count = int(coupling.component.max()) + 1
    worst, seen = np.zeros(count), np.zeros(count, bool)
    for reader, own in shares:
        value = np.full(len(reader.components), np.inf) if own is None else own
        np.maximum.at(worst, reader.components, value)
        seen[reader.components] = True
    seen[0] = False
    gone, spent = np.zeros(count, bool), [0.0] * len(shares)
    members: dict[int, list[tuple[int, float]]] = {}
    for number, (reader, own) in enumerate(shares):
        for component, share in zip(reader.components.tolist(), (() if own is None else own.tolist()), strict=False):
            members.setdefault(component, []).append((number, share))
    for component in sorted(np.flatnonzero(seen & (worst <= most)).tolist(), key=worst.__getitem__):
        parts = members.get(component, [])
        if all(spent[number] + share <= most for number, share in parts):
            gone[component] = True
            for number, share in parts:
                spent[number] += share
    return gone


def _aligned(coupling: Coupling, silent: Mask, shares: list[tuple[Reader, Floats | None]], align: int) -> Mask:
    """Those that go so that each group has a width worth having; a group keeps a channel."""
    worst = np.zeros(len(silent))
    for reader, own in shares:
        np.maximum.at(worst, reader.components, 0.0 if own is None else own)
    gone = np.zeros(len(silent), bool)
    for group, step in zip(coupling.groups, steps(coupling, align), strict=True):
        free = group.components[silent[group.components]]
        widths = choices(group.width, step, 1)
        width = int(widths[widths >= max(group.width - len(free), 1)].min())
        gone[free[np.argsort(worst[free], kind="stable")][: group.width - width]] = True
    return gone


def _known(reader: Reader, found: Moments, removed: Mask) -> Known:
    mean, _ = found[_data(reader)]
    mask = removed[reader.components] if len(mean) == len(reader.components) else np.zeros(len(mean), bool)
    return Known(_axis(reader), mask, np.where(mask, mean, 0.0))


def _declared(coupling: Coupling, readers: list[Reader], removed: Mask, places: list[tuple[int, int]]) -> Masks:
    """The zeros of the readers' weights, and the biases that took the means."""
    weights = []
    for reader in readers:
        gone = removed[reader.components]
        if not gone.any() or reader.weight.into is None:
            continue
        shape = [1] * reader.weight.values.ndim
        shape[reader.weight.into] = -1
        kept = np.broadcast_to(~gone.reshape(shape), reader.weight.values.shape)
        weights.append(MaskedWeight.of((_output(coupling, reader.node.index), 1), kept, "unstructured"))
    masked = {weight.place for weight in weights}
    others = {(_output(coupling, index), position) for index, position in places}
    return Masks(tuple(weights), frozenset(others - masked))


def _output(coupling: Coupling, index: int) -> str:
    return str(coupling.nodes[index].gs.outputs[0].name)
