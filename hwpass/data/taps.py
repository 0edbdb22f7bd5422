"""Which tensors can be looked at while a model runs, and sessions that hand them out.

Only tensors of the main graph can be outputs of it: what is made inside the body of an If, Loop or Scan cannot, and a
name means a tensor of its own there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from hwpass.errors import InputError
from hwpass.model.model import Model
from hwpass.runtime.sessions import StoredModel

if TYPE_CHECKING:
    import onnxruntime as ort


class Outer:
    """The tensors of the main graph, told apart from those of bodies by identity."""

    def __init__(self, model: Model) -> None:
        self._made = {id(t) for node in model.graph.nodes for t in node.outputs if t.name}
        self._given = {id(t) for t in model.graph.inputs}

    def holds(self, tensor: gs.Tensor) -> bool:
        """Whether the tensor is one of the main graph: an input, or made by a node of it."""
        return id(tensor) in self._made or id(tensor) in self._given

    def makes(self, tensor: gs.Tensor) -> bool:
        """Whether a node of the main graph makes the tensor."""
        return id(tensor) in self._made


def tapped_session(
    stored: StoredModel, names: Sequence[str], threads: int
) -> tuple[ort.InferenceSession | None, list[str]]:
    """A session whose outputs are those of the tensors that can be handed out, and which these are.

    Raises `InputError` when the model does not load as it is. Without a tensor there is no session.
    """
    names = list(dict.fromkeys(names))
    try:
        return (stored.open_session(outputs=names, threads=threads) if names else None), names
    except InputError:
        stored.open_session(threads=threads)
    good = _good(stored, names, threads)
    return (stored.open_session(outputs=good, threads=threads) if good else None), good


def _good(stored: StoredModel, names: list[str], threads: int) -> list[str]:
    """Those of some names, not all of which can be handed out, that can be."""
    if len(names) < 2:
        return []
    found: list[str] = []
    for half in (names[: len(names) // 2], names[len(names) // 2 :]):
        try:
            stored.open_session(outputs=half, threads=threads)
            found += half
        except InputError:
            found += _good(stored, half, threads)
    return found
