"""Which factor of a product of indices is live: heads or head width, groups or the width inside a group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwpass.ops.axes import Ids, Relations, Split

#: An outer factor of fewer indices than this leaves too little choice; then the inner one is thinned.
FEWEST = 4


@dataclass(eq=False)
class _Classes:
    """Factors that share channels live or freeze together."""

    of: dict[int, int]  # id(ids array) -> class
    dead: set[int]


def decide(build: Relations, inner: Ids) -> Ids:
    """Choose the live factor of every product, and return the components of all equalities.

    Removal keeps a product rectangular when one factor is live and the others are frozen: outer before inner
    (whole heads, whole groups) unless the outer one is frozen by something else, or has fewer than FEWEST
    indices and less than the inner, or the inner one has some of the ids `inner`. A choice that turns out wholly
    frozen is revised, a bounded number of times.
    """
    from hwpass.coupling.components import solve

    component = solve(build.count, build.left, build.right)
    if not build.splits:
        return component
    _identify(build, component)
    component = solve(build.count, build.left, build.right)
    refused: set[int] = set()
    for _ in range(6):
        classes = _classes(build.splits, component)
        live = _choose(build.splits, classes, refused, _wanting(build.splits, component, inner))
        left, right, origin = _equalities(build.splits, classes, live, component)
        solved = solve(build.count, [*build.left, *left], [*build.right, *right])
        worse = {
            c for s in build.splits for c in _sides(s, classes)
            if c in live and c not in classes.dead and not _any_live(s, c, classes, solved)
            and all(o not in classes.dead and o not in refused for o in _sides(s, classes) if o != c)
        }  # fmt: skip
        if not worse - refused:
            break
        refused |= worse
    build.left += left
    build.right += right
    build.origin += origin
    return solved


def _identify(build: Relations, component: Ids) -> None:
    """Two products of the same channels with the same sizes are one: equate their factors."""
    seen: dict[tuple[bytes, int], Split] = {}
    for split in build.splits:
        key = (component[split.parent].tobytes(), len(split.outer))
        if not component[split.parent].any():
            continue
        first = seen.setdefault(key, split)
        if first is not split:
            for one, other in ((first.outer, split.outer), (first.inner, split.inner)):
                build.left.append(one)
                build.right.append(other)
                build.origin.append((split.node, "the same product of channels"))


def _classes(splits: list[Split], component: Ids) -> _Classes:
    parent: dict[int, int] = {}

    def find(x: int) -> int:
        while parent[x] != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        return x

    owner: dict[int, int] = {}
    dead: set[int] = set()
    arrays: dict[int, Ids] = {}
    for split in splits:
        for ids in (split.outer, split.inner):
            arrays[id(ids)] = ids
            parent.setdefault(id(ids), id(ids))
            for c in np.unique(component[ids]).tolist():
                if c:
                    first = owner.setdefault(c, id(ids))
                    parent[find(id(ids))] = find(first)
    of = {key: find(key) for key in arrays}
    alive = {of[key] for key, ids in arrays.items() if component[ids].any()}
    dead = {c for c in of.values() if c not in alive}
    return _Classes(of, dead)


def _sides(split: Split, classes: _Classes) -> tuple[int, int]:
    return classes.of[id(split.outer)], classes.of[id(split.inner)]


def _wanting(splits: list[Split], component: Ids, inner: Ids) -> set[int]:
    """The identities of the products whose inner factor is wanted."""
    wanted = np.setdiff1d(component[inner], [0])
    return {id(split) for split in splits if np.isin(component[split.inner], wanted).any()}


def _choose(splits: list[Split], classes: _Classes, refused: set[int], thinned: set[int]) -> set[int]:
    """The classes that stay live; every split has at most one of them."""
    dead = set(classes.dead)
    live: set[int] = set()
    partners: dict[int, set[int]] = {}
    for split in splits:
        outer, inner = _sides(split, classes)
        if outer == inner:
            dead.add(outer)
        partners.setdefault(outer, set()).add(inner)
        partners.setdefault(inner, set()).add(outer)

    def enliven(chosen: int) -> None:
        live.add(chosen)
        for other in partners[chosen]:
            if other not in live:
                dead.add(other)

    for split in splits:
        outer, inner = _sides(split, classes)
        if outer in live or inner in live:
            continue
        first, second = (outer, inner) if id(split) not in thinned and _prefers_outer(split) else (inner, outer)
        for candidate in (first, second):
            if candidate not in dead and candidate not in refused:
                enliven(candidate)
                break
    return live


def _prefers_outer(split: Split) -> bool:
    return len(split.outer) >= FEWEST or len(split.outer) >= len(split.inner)


def _equalities(
    splits: list[Split], classes: _Classes, live: set[int], component: Ids
) -> tuple[list[Ids], list[Ids], list[tuple[int, str]]]:
    left: list[Ids] = []
    right: list[Ids] = []
    origin: list[tuple[int, str]] = []

    def freeze(ids: Ids, node: int, reason: str) -> None:
        left.append(ids)
        right.append(np.zeros(len(ids), np.int64))
        origin.append((node, reason))

    for split in splits:
        outer, inner = _sides(split, classes)
        a, b = len(split.outer), len(split.inner)
        if outer in live and inner in live:
            freeze(split.outer, split.node, "both factors of a product are wanted elsewhere")
        if outer in live:
            freeze(split.inner, split.node, f"removal goes by the {a} outer parts of {a} x {b}")
            left.append(split.parent)
            right.append(np.repeat(split.outer, b))
        elif inner in live:
            freeze(split.outer, split.node, f"removal goes by the {b} inner parts of {a} x {b}")
            left.append(split.parent)
            right.append(np.tile(split.inner, a))
        else:
            # Whatever else freezes a factor is the better reason.
            for ids in (split.outer, split.inner):
                if component[ids].any():
                    freeze(ids, split.node, "no factor of the product may be thinned")
            left.append(split.parent)
            right.append(np.repeat(split.outer, b))
        origin.append((split.node, f"the product {a} x {b}"))
    return left, right, origin


def _any_live(split: Split, chosen: int, classes: _Classes, solved: Ids) -> bool:
    ids = split.outer if classes.of[id(split.outer)] == chosen else split.inner
    return bool(solved[ids].any())
