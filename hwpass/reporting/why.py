"""What ties a layer's channels to those of other layers, or freezes them: `hwpass groups --why`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from rich.console import Console

from hwpass.coupling.chains import chain
from hwpass.coupling.groups import Coupling, Group
from hwpass.node_names import find
from hwpass.ops import Node
from hwpass.ops.axes import FROZEN, Axis, axis_size
from hwpass.reporting.tables import print_line
from hwpass.reporting.words import abbreviated

#: Layers whose chains are spelled out; of a residual stream there may be hundreds.
CHAINS = 4

#: Steps of one chain that are spelled out.
STEPS = 12


def render_why(coupling: Coupling, wanted: str, console: Console) -> None:
    """Print, for each axis of the node's channels, its group and the chains that tie it, or what freezes it.

    Raises UsageError for a name that no node has or several share.
    """
    for line in explanation(coupling, wanted):
        print_line(console, line)


def explanation(coupling: Coupling, wanted: str) -> Iterator[str]:
    """The lines of the answer."""
    names = [node.name for node in coupling.nodes]
    name = find(wanted, names, "node", "; `hwpass groups MODEL` lists the layers")
    node = coupling.nodes[names.index(name)]
    yield f"{name} ({node.op})"
    if node.frozen:
        yield f"  its rule freezes all of its inputs and outputs: {node.frozen}"
    sides = list(_sides(coupling, node))
    if not sides and not node.frozen:
        yield "  it has no channels: every axis is a batch, a position or a single value"
    for side, axis in sides:
        yield from _side(coupling, node, side, axis)


def _sides(coupling: Coupling, node: Node) -> Iterator[tuple[str, Axis]]:
    """The axes of channels: of a layer its weight's, of any other node its outputs'."""
    if node.product is not None:
        axes = coupling.weight_axes(node)
        yield "output", axes[node.product.weight_out]
        if node.product.weight_in is not None:
            yield "input", axes[node.product.weight_in]
        return
    for tensor in node.outputs[:1]:
        for place, axis in enumerate(tensor.axes or ()):
            if any(factor.ids is not None for factor in axis):
                yield f"axis {place}", axis


def _side(coupling: Coupling, node: Node, side: str, axis: Axis) -> Iterator[str]:
    count = axis_size(axis)
    ids = [factor.ids for factor in axis if factor.ids is not None]
    found = {c: int(i) for part in ids for c, i in zip(coupling.component[part].tolist(), part.tolist(), strict=True)}
    label = f"its {count} {side} channels" if side in ("output", "input") else f"its {count} channels on {side}"
    groups = [g for g in coupling.groups if not found.keys().isdisjoint(g.components.tolist())]
    if not groups:
        reason = chain(coupling, found[FROZEN]) if FROZEN in found else []
        yield f"  {label} are frozen:" if reason else f"  {label} belong to no layer that could be thinned"
        yield from _steps(reason, "    ")
        return
    for group in groups:
        shared = sum(1 for c in group.components.tolist() if c in found)
        parts = f"{shared} of them" if shared < group.width else f"{group.width}"
        size = "" if count == group.width else f", {count // group.width} indices each"
        yield f"  {label} are group {group.name} ({parts}{size if len(groups) == 1 else ''})"
        if side != "input":
            yield from _ties(coupling, node, group, found)
    live = {c for g in groups for c in g.components.tolist()}
    if len(axis) == 1 and FROZEN in found and live:
        yield f"  {label}: some are frozen:"
        yield from _steps(chain(coupling, found[FROZEN]), "    ")


def _ties(coupling: Coupling, node: Node, group: Group, found: dict[int, int]) -> Iterator[str]:
    """Chains to the other layers that make these channels, then the layers that only read them."""
    own = next(c for c in group.components.tolist() if c in found)
    makers, readers = [], []
    for other in coupling.nodes:
        if other is node or other.product is None:
            continue
        axes = coupling.weight_axes(other)
        goal = _id_of(coupling, axes[other.product.weight_out], own)
        if goal is not None:
            makers.append((other.name, goal))
        elif other.product.weight_in is not None and _id_of(coupling, axes[other.product.weight_in], own) is not None:
            readers.append(other.name)
    for name, goal in makers[:CHAINS]:
        yield f"    tied to {name} by"
        yield from _steps(chain(coupling, found[own], goal))
    if len(makers) > CHAINS:
        yield f"    tied also to {abbreviated([name for name, _ in makers[CHAINS:]], 6)}"
    if not makers:
        yield "    no other layer makes them"
    if readers:
        yield f"    read by {abbreviated(readers, 6)}"


def _id_of(coupling: Coupling, axis: Axis, component: int) -> int | None:
    """An id of the axis in a component."""
    for factor in axis:
        if factor.ids is not None:
            place = np.flatnonzero(coupling.component[factor.ids] == component)
            if len(place):
                return int(factor.ids[place[0]])
    return None


def _steps(steps: list[tuple[str, str]], indent: str = "      ") -> Iterator[str]:
    if not steps:
        yield f"{indent}the same channels"
    for name, reason in steps[:STEPS]:
        yield f"{indent}{name}: {reason}"
    if len(steps) > STEPS:
        yield f"{indent}and {len(steps) - STEPS} more steps; the last is {steps[-1][0]}: {steps[-1][1]}"
