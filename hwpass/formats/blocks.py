"""Weights of matrix products alone in few bits: ONNX Runtime's MatMulNBits.

A block of consecutive weights of one output channel shares a scale: that which puts the weight of largest magnitude on
the lowest integer, so that only values of the other sign may be cut off, by less than a step.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import helper

from hwpass.model.model import Model

#: Where the operator lives.
DOMAIN = "com.microsoft"


def packed(weight: NDArray[np.floating], bits: int, block: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A weight [K, N] as bytes [N, blocks, block bits / 8] and scales [N, blocks]; zero is 2^(bits - 1)."""
    rows, columns = weight.shape
    blocks = -(-rows // block)
    padded = np.zeros((columns, blocks * block))
    padded[:, :rows] = weight.T
    padded = padded.reshape(columns, blocks, block)
    middle = 2 ** (bits - 1)
    largest = np.take_along_axis(padded, np.abs(padded).argmax(axis=2)[:, :, None], axis=2)[:, :, 0]
    scales = np.asarray(-largest / middle, np.float32)
    steps = np.where(scales == 0, 1.0, scales).astype(np.float64)[:, :, None]
    q = np.clip(np.round(padded / steps) + middle, 0, 2 * middle - 1).astype(np.uint8)
    if bits == 4:
        q = (q[:, :, 0::2] | (q[:, :, 1::2] << 4)).astype(np.uint8)
    return q, scales


def fits(node: gs.Node) -> bool:
    """Whether a node is a matrix product with a constant float32 weight [K, N]."""
    if node.op != "MatMul" or node.domain:
        return False
    weight = node.inputs[1]
    return isinstance(weight, gs.Constant) and weight.dtype == np.float32 and weight.values.ndim == 2


def in_blocks(model: Model, layers: Iterable[str], bits: int, block: int) -> Model:
    """A copy with matrix products, named by their outputs, on weights of few bits."""
    result = model.copy()
    wanted = set(layers)
    done: dict[int, tuple[gs.Constant, gs.Constant]] = {}
    for node in result.graph.nodes:
        if node.outputs[0].name not in wanted or not fits(node):
            continue
        weight = node.inputs[1]
        rows, columns = weight.values.shape
        if id(weight) not in done:
            q, scales = packed(weight.values, bits, block)
            done[id(weight)] = (
                gs.Constant(f"{weight.name}_q{bits}", q),
                gs.Constant(f"{weight.name}_scales", scales.reshape(-1)),
            )
        node.op, node.domain = "MatMulNBits", DOMAIN
        node.attrs = {"K": rows, "N": columns, "bits": bits, "block_size": block}
        node.inputs = [node.inputs[0], *done[id(weight)]]
    domains = {entry.domain for entry in result.graph.import_domains}
    if done and DOMAIN not in domains:
        result.graph.import_domains = [*result.graph.import_domains, helper.make_opsetid(DOMAIN, 1)]
    result.graph.cleanup(remove_unused_node_outputs=False)
    return result
