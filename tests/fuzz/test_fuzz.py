"""300 random cases: each ends in one line and a status of the contract, and writes whole files or none."""

from __future__ import annotations

import pytest

from .cases import case_of
from .judge import outcome_of

CASES, TOGETHER = 300, 15


@pytest.mark.parametrize("first", range(0, CASES, TOGETHER))
def test_whatever_is_read_the_contract_holds(first: int) -> None:
    outcomes = [outcome_of(case_of(number)) for number in range(first, first + TOGETHER)]
    broken = [f"python -m tests.fuzz --only {o.number}: {o.problems} {o.said}" for o in outcomes if o.problems]
    assert not broken, "\n".join(broken)
