"""Where the channels of a tensor go through operators that only move numbers about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hwpass.errors import InputError
from hwpass.model.model import quiet
from hwpass.ops import Node
from hwpass.runtime.sessions import open_session, run_session

#: Numbers that are told apart: every integer below is one in single precision.
CODES = 1 << 24


class Unfit(Exception):
    """What is looked for is not there, and why."""


def scalar(node: Node) -> int | None:
    """The input that a node multiplies or divides by one number; None where it does something else."""
    if node.op not in ("Mul", "Div"):
        return None
    for position in (1, 0)[: 1 if node.op == "Div" else 2]:
        constant = node.gs.inputs[position]
        if isinstance(constant, gs.Constant) and constant.values.size == 1 and np.all(constant.values != 0):
            return 1 - position
    return None


def codes_behind(
    graph: gs.Graph, start: gs.Tensor, end: gs.Tensor, steps: Sequence[Node], codes: NDArray[np.int64]
) -> NDArray[np.int64]:
    """What steps from one tensor to another make of integers in the place of its numbers.

    The steps move numbers about; those that multiply all of them by the same are left out.

    Raises Unfit where extents among the operands are not known, or the runtime cannot run them.
    """
    if codes.size and int(codes.max()) >= CODES:
        raise Unfit("too many channels are moved about")
    probe = gs.Variable(start.name, np.float32, list(codes.shape))
    made: dict[str, gs.Tensor] = {start.name: probe}
    nodes = []
    for step in steps:
        data = scalar(step)
        if data is not None:
            made[step.gs.outputs[0].name] = made[step.gs.inputs[data].name]
            continue
        operands = [_operand(step, position, made) for position in range(len(step.gs.inputs))]
        outputs = [gs.Variable(t.name) for t in step.gs.outputs]
        made.update({t.name: t for t in outputs})
        nodes.append(gs.Node(step.op, step.gs.name, dict(step.gs.attrs), operands, outputs, step.gs.domain))
    last = made[end.name]
    if last is probe:
        return np.asarray(codes)
    alone = gs.Graph(
        nodes, [probe], [last],
        opset=graph.opset, import_domains=graph.import_domains, ir_version=graph.ir_version,
    )  # fmt: skip
    with quiet():
        proto = gs.export_onnx(alone, do_type_check=False)
    try:
        found = run_session(open_session(proto), {probe.name: np.ascontiguousarray(codes, np.float32)})[last.name]
    except InputError as error:
        raise Unfit(f"what moves its channels cannot be run: {error}") from None
    return np.asarray(found).astype(np.int64)


def _operand(step: Node, position: int, made: dict[str, gs.Tensor]) -> gs.Tensor:
    tensor = step.gs.inputs[position]
    if tensor.name in made:
        return made[tensor.name]
    if not tensor.name:
        return gs.Variable.empty()
    value = step.value(position)
    if value is None:
        raise Unfit(f"{step.op} moves its channels to places that are computed")
    return gs.Constant(f"{step.gs.outputs[0].name}_operand_{position}", np.asarray(value))
