"""Break one statement of one operator rule on purpose.

Rules speak to the solver through a builder. A watched builder stands between the two: it lists every statement that a
rule makes while it couples a node, and can leave one of them out. Statements of the same function and method are
numbered within one node.
"""

from __future__ import annotations

import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hwpass.coupling.walk import Builder
from hwpass.ops import Node, Rule, Tensor
from hwpass.ops.axes import Axis, Factor, Ids, with_zero
from hwpass.ops.rule import Freeze, rules

#: Places (file, line) of the statements that were seen to matter.
LINES: set[tuple[str, int]] = set()

#: Modules of `hwpass.ops` whose rules are not broken statement by statement. Faults are planted in each (see
#: `faults_of_rules`), and what else checks them is named here.
UNWITNESSED = {
    "quantized": "quantised networks made by ONNX Runtime's own tools, and the operators' node tests",
    "qoperator": "quantised networks made by ONNX Runtime's own tools, and the operators' node tests",
    "nbits": "the operators' node tests",
    "attention": "the operators' node tests",
    "contrib_attention": "the operators' node tests",
    "contrib": "the operators' node tests",
    "sampling": "the operators' node tests",
    "frozen": "no statement but the refusal",
}


def rule_classes() -> dict[str, Rule]:
    """The registered rules that have witnesses, by the name of their class."""
    found = {type(rule).__name__: rule for rule in rules().values()}
    return {name: rule for name, rule in found.items() if type(rule).__module__.rpartition(".")[2] not in UNWITNESSED}


def alive(axis: Axis) -> bool:
    """Whether any factor of an axis may lose indices."""
    return any(f.ids is not None for f in axis)


def detached(build: Builder, axis: Axis) -> Axis:
    """The same extents, tied to nothing."""
    return tuple(f if f.ids is None else build.fresh(f.size, f.zero) for f in axis)


class Watched:
    """A builder that lists the statements made to it in `facts`, and leaves out the one named `broken`."""

    def __init__(self, build: Builder, facts: set[str], broken: str | None) -> None:
        self._build = build
        self._facts = facts
        self._broken = broken
        self._seen: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._build, name)

    def breaks(self, fact: str) -> bool:
        """Enter a fact; whether it is the one to break."""
        self._facts.add(fact)
        return fact == self._broken

    def _stated(self, method: str, matters: bool = True) -> bool:
        frame = sys._getframe(2)
        code = frame.f_code
        if matters:
            LINES.add((Path(code.co_filename).name, frame.f_lineno))
        stem = f"{code.co_qualname} {method}"
        self._seen[stem] += 1
        return matters and self.breaks(f"{stem} #{self._seen[stem]}")

    def unify(self, one: Axis, other: Axis, reason: str) -> tuple[Axis, Axis]:
        if self._stated("unify", alive(one) or alive(other)):
            return one, other
        return self._build.unify(one, other, reason)

    def freeze(self, axes: list[Axis], reason: str) -> None:
        axes = list(axes)
        if self._stated("freeze", any(map(alive, axes))):
            return
        self._build.freeze(axes, reason)

    def freeze_ids(self, ids: Ids, reason: str) -> None:
        if not self._stated("freeze_ids"):
            self._build.freeze_ids(ids, reason)

    def factor(self, ids: Ids, zero: bool) -> Axis:
        if self._stated("factor"):
            return (self._build.fresh(len(ids), zero),) if len(ids) > 1 else ()
        return self._build.factor(ids, zero)

    def regroup(self, factors: list[Factor], sizes: list[int]) -> list[Axis]:
        axes = self._build.regroup(factors, sizes)
        if self._stated("regroup", any(map(alive, axes))):
            return [detached(self._build, axis) for axis in axes]
        return axes

    def flat(self, axis: Axis) -> tuple[Ids, bool] | None:
        found = self._build.flat(axis)
        if self._stated("flat", found is not None) and found is not None:
            fresh = self._build.fresh(len(found[0])).ids
            assert fresh is not None
            return fresh, found[1]
        return found


@contextmanager
def watched(name: str, rule: Rule, facts: set[str], broken: str | None = None) -> Iterator[None]:
    """Watch a rule; with `broken`, leave that fact out wherever it is stated."""
    couple, shrink = rule.couple, rule.shrink

    def couple_watched(node: Node, build: Builder) -> list[Tensor]:
        watch = Watched(build, facts, broken)
        if type(rule).shrink is not Rule.shrink:
            watch.breaks("shrink")
        try:
            outputs = couple(node, watch)  # type: ignore[arg-type]
        except Freeze as freeze:
            refused = traceback.extract_tb(freeze.__traceback__)[-1]
            LINES.add((Path(refused.filename).name, refused.lineno or 0))
            if watch.breaks(f"refusal: {_words(str(freeze))}"):
                return build.inferred(node)
            raise
        if node.fill and watch.breaks("fill"):
            node.fill.clear()
        for place, output in enumerate(outputs):
            if output.axes is not None:
                axes = [_changed(build, watch, place, i, a) for i, a in enumerate(output.axes)]
                outputs[place] = Tensor(tuple(axes), output.dtype, output.data, output.constant)
        return outputs

    def shrink_watched(node: Node, shrink_: Any) -> None:
        if broken is None or not (broken == "shrink" or broken.startswith("refusal")):
            shrink(node, shrink_)

    with (
        patch.object(rule, "couple", couple_watched, create=True),
        patch.object(rule, "shrink", shrink_watched, create=True),
    ):
        yield


def _changed(build: Builder, watch: Watched, output: int, axis: int, factors: Axis) -> Axis:
    if alive(factors) and watch.breaks(f"output {output} axis {axis} follows the inputs"):
        return detached(build, factors)
    flagged = not all(f.zero for f in factors if f.ids is not None)
    if flagged and watch.breaks(f"output {output} axis {axis} is not zero"):
        return with_zero(factors, True)
    return factors


def _words(reason: str) -> str:
    """A reason without its numbers and operators' names."""
    return " ".join(w for w in reason.split() if w.islower() and w.isalpha())


@contextmanager
def all_watched(facts: dict[str, set[str]]) -> Iterator[None]:
    """Watch every rule; `facts` collects what each states."""
    with ExitStack() as stack:
        for name, rule in rule_classes().items():
            stack.enter_context(watched(name, rule, facts.setdefault(name, set())))
        yield
