"""The three states of a verdict: it passed, it failed, or nothing was there to judge it by."""

from __future__ import annotations

from typing import Literal

State = Literal["passed", "failed", "not judged"]
"""What a verdict says. *Not judged* is neither good nor bad news: its note says what is missing."""


def state_of(passed: bool | None) -> State:
    """The state in words, from a verdict's `passed` (None where nothing was judged).

    >>> state_of(None)
    'not judged'
    """
    if passed is None:
        return "not judged"
    return "passed" if passed else "failed"
