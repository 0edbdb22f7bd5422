"""Every operator of the ONNX standard, and those of ONNX Runtime: thinned exactly, or frozen with a reason."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from contrib_cases import contrib_cases
from node_cases import Case, cases
from onnx import defs
from standard import findings

from hwpass.ops.rule import rules

#: Operators without a node test of tensors: `test_containers.py` has them.
UNTRIED = {
    "ImageDecoder", "Multinomial", "Optional", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase",
    "SequenceLength", "ConcatFromSequence",
}  # fmt: skip


@cache
def shortest() -> dict[tuple[str, str], Case]:
    """One case for each operator: of those with the most elements up to 300, the first."""
    found: dict[tuple[str, str], tuple[int, Case]] = {}
    for case in cases():
        sizes = [v.size for v in case.values if isinstance(v, np.ndarray)]
        score = max(sizes, default=0)
        score = score if score <= 300 else -score
        if case.operator not in found or score > found[case.operator][0]:
            found[case.operator] = (score, case)
    return {operator: case for operator, (_, case) in found.items()}


def test_every_operator_of_the_standard_has_a_case() -> None:
    standard = {s.name for s in defs.get_all_schemas() if s.domain == "" and not s.deprecated}
    assert standard - {op for domain, op in shortest() if not domain} - UNTRIED == set()


def test_every_operator_of_the_standard_has_a_rule() -> None:
    standard = {s.name for s in defs.get_all_schemas() if s.domain == "" and not s.deprecated}
    assert standard - {op for domain, op in rules() if not domain} - {"Constant"} == set()


def test_operators_are_exact_or_frozen_with_a_reason() -> None:
    wrong: list[str] = []
    outcomes: dict[tuple[str, str], set[str]] = {}
    for operator, case in shortest().items():
        for finding in findings(case):
            outcomes.setdefault(operator, set()).add(finding.outcome)
            if finding.outcome == "wrong":
                wrong.append(f"{finding.name}: {finding.detail}")
    assert wrong == []
    untried = {op for (_, op), seen in outcomes.items() if seen == {"skipped"}}
    assert untried <= UNTRIED
    assert sum("exact" in seen for seen in outcomes.values()) >= 110


@pytest.mark.parametrize("case", contrib_cases(), ids=lambda case: case.name)
def test_operators_of_onnx_runtime_are_thinned_exactly(case: Case) -> None:
    found = findings(case)
    assert [f"{f.name}: {f.detail}" for f in found if f.outcome == "wrong"] == []
    assert any(f.outcome == "exact" and f.removed for f in found)
