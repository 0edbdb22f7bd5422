"""A solution of a model's relations, which serves again for another walk that states the same."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from hwpass.coupling.walk import Builder
from hwpass.ops.axes import Ids


def stated(build: Builder, principal: Ids) -> bytes:
    """A digest of all that a solution depends on; `principal` are the ids that are worth more thinning."""
    found = hashlib.blake2b(str((build.count, len(build.left), len(build.splits))).encode())
    splits = [ids for split in build.splits for ids in (split.parent, split.outer, split.inner)]
    for ids in (*build.left, *build.right, *splits, principal):
        found.update(len(ids).to_bytes(8, "little"))
        found.update(np.ascontiguousarray(ids, np.int64).data)
    return found.digest()


@dataclass(frozen=True, eq=False)
class Solution:
    """The component of every id, and the equalities that the solver added to those that were stated."""

    component: Ids
    left: list[Ids]
    right: list[Ids]
    origin: list[tuple[int, str]]

    @classmethod
    def of(cls, build: Builder, before: int, component: Ids) -> Solution:
        """What solving added to a walk that had stated `before` equalities."""
        return cls(component, build.left[before:], build.right[before:], build.origin[before:])

    def enter(self, build: Builder) -> Ids:
        """Add the same to another walk; the components."""
        build.left += self.left
        build.right += self.right
        build.origin += self.origin
        return self.component
