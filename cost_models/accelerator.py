"""What accelerators behind a host have in common: constants kept or streamed, vector work, the crossing.

The base of the models of systolic arrays, NPUs and dataflow chips; it is no kind of hardware by itself.
"""

from __future__ import annotations

import numpy as np

from hwpass.cost_models.base import CostModel
from hwpass.cost_models.work import Floats, Work


def round_up(count: Floats, step: int) -> Floats:
    """Counts rounded up to a multiple of `step`; 0 stands for no rounding."""
    return np.asarray(np.ceil(count / step) * step if step > 1 else count)


class Accelerator(CostModel):
    """Adds to a cost model what the accelerators share.

    Figures of the vector unit, `op_ns` and `fused_ns`, are nanoseconds per element of one byte; elements of a wider
    format take as many times longer. Kernels without a product take their operator's `op_ns`, or that of their kind, or
    `default`; an operator fused behind a product adds its `fused_ns` for every output.
    """

    def vector_seconds(self, work: Work) -> Floats:
        """Seconds of the vector unit per kernel, [P, K]: all of a kernel without a product, and what is fused behind
        one."""
        chains = [str(op).split("+") for op in work.op] if work.op.size else [[""]] * len(work.kind)
        plain = np.array([self._op_ns(*parts) for parts in zip(chains, work.kind, strict=True)])
        fused = np.array([sum(self.target.fused_ns.get(op, 0.0) for op in chain[1:]) for chain in chains])
        elements = np.where(work.kind == "reduce", work.read, work.written)
        return np.asarray(np.where(work.macs > 0, work.written * fused, elements * plain) * 1e-9)

    def _op_ns(self, chain: list[str], kind: str) -> float:
        table = self.target.op_ns
        if "+".join(chain) in table:  # a chain that the runtime has one operator for, such as Sigmoid+Mul
            return table["+".join(chain)]
        return table.get(chain[0], table.get(str(kind), table.get("default", 0.0)))

    @staticmethod
    def spilled(work: Work, capacity_bytes: float) -> Floats:
        """Bytes of each kernel's constants that no on-chip memory of that size keeps between inferences, [P, K].

        The excess over the capacity is streamed; it is shared among the kernels by their own bytes, since a plan with
        one channel less moves the place at which a compiler stops keeping.
        """
        total = work.weights.sum(axis=1, keepdims=True)
        share = np.clip(1 - capacity_bytes / np.maximum(total, 1.0), 0.0, 1.0)
        return np.asarray(work.weights * share)

    @staticmethod
    def crossing(work: Work) -> tuple[Floats, Floats]:
        """(tensors, bytes) that each kernel takes from the host or hands back to it, both [P, K]."""
        count, moved = np.zeros(work.m.shape), np.zeros(work.m.shape)
        outside = np.flatnonzero(work.source < 0)
        np.add.at(count.T, work.sink[outside], (work.bytes[:, outside] > 0).T.astype(np.float64))
        np.add.at(moved.T, work.sink[outside], work.bytes[:, outside].T)
        last = np.setdiff1d(np.arange(work.m.shape[1]), work.source)
        count[:, last] += work.written[:, last] > 0
        moved[:, last] += work.written[:, last]
        return count, moved

    def crossing_seconds(self, work: Work, tensor_us: float, gbs: float) -> Floats:
        """Seconds each kernel waits for inputs and outputs of the model, [P, K], at `tensor_us` each and `gbs`."""
        count, moved = self.crossing(work)
        return np.asarray(count * tensor_us * 1e-6 + moved * 1e-9 / gbs)

    def busy(self, work: Work) -> Floats:
        """The fixed cost of each kernel that runs at all, [K], seconds."""
        return np.asarray((work.kind != "free") * self.target.overhead_us * 1e-6)
