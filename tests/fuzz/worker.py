"""A process that runs cases: a number and a kind per line on standard input, an outcome per line on standard output."""

from __future__ import annotations

import os
import resource
import sys

from . import cases
from .judge import RESIDENT, SPENT, Outcome, outcome_of, resident

#: Address space, so that one case cannot take the machine's memory with it.
ADDRESSES = 12 << 30


def main() -> None:
    """Answer until the input ends, or a case took so much memory that the next one's could not be told."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Only outcomes go where the parent reads; what native code prints does not.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for line in sys.stdin:
        number, _, kind = line.strip().partition(" ")
        before = resident()
        found = outcome_of(cases.case_of(int(number), kind or None))
        used = resident()
        if used > RESIDENT and used > before:
            text = f"{used >> 20} {SPENT}"
            found = Outcome(**{**found.__dict__, "problems": (*found.problems, text)})
        print(found.to_json(), file=answers, flush=True)
        if used > RESIDENT:
            break


if __name__ == "__main__":
    main()
