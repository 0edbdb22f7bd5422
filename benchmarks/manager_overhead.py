"""What the pass manager adds to a run: the seconds inside it that no pass was running, over those of the whole run.

    python benchmarks/manager_overhead.py MODEL [--target T] [--macs 0.7x]

Copies, checks of the contract, fingerprints for the analyses, records and the release of memory are counted as added.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import hwpass
from hwpass.manager import PassManager, passes


def timed(function: Callable[..., Any], total: list[float]) -> Callable[..., Any]:
    """The function, its seconds added to a total."""

    def run(*given: Any, **named: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*given, **named)
        finally:
            total[0] += time.perf_counter() - start

    return run


def main() -> None:
    """Run once, and print one row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--target", default="server-cpu")
    parser.add_argument("--macs", default="0.7x")
    asked = parser.parse_args()
    inside, whole, everything = [0.0], [0.0], [0.0]
    for cls in passes().values():
        cls.run = timed(cls.run, inside)  # type: ignore[method-assign]
    PassManager.run = timed(PassManager.run, whole)  # type: ignore[method-assign]
    timed(hwpass.run, everything)(asked.model, asked.target, macs=asked.macs, score="l2", distill="off")
    added = whole[0] - inside[0]
    print(
        f"{asked.model}: run {everything[0]:.2f} s, passes {inside[0]:.2f} s, manager {added:.3f} s,"
        f" {100 * added / everything[0]:.2f} % of the run"
    )


if __name__ == "__main__":
    main()
