"""Every node test of the ONNX standard, and cases of ONNX Runtime's own operators, with products around the operator.

    python benchmarks/operators.py [-o operators.json] [--seeds 1] [OPERATOR ...]

A few models per case (all inputs live, or one at a time; outputs read by layers or summed); channels are removed at
random, and the pruned model is compared with its dense twin. Outcomes: exact, frozen with a reason, wrong; skipped
are models that do not run before anything is removed (an index that would have to be a live tensor).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections import Counter, defaultdict
from dataclasses import asdict
from pathlib import Path

from common import show

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "ops"))

from contrib_cases import contrib_cases
from node_cases import cases
from standard import Finding, findings


def main() -> None:
    """Run the cases, and print counts per domain and whatever went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("operators", nargs="*")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    start = time.perf_counter()
    found: list[Finding] = []
    for case in (*cases(), *contrib_cases()):
        if not options.operators or case.operator[1] in options.operators:
            found += findings(case, tuple(range(options.seeds)))
    by_operator: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for finding in found:
        by_operator[finding.operator][finding.outcome] += 1
    rows = []
    for domain in sorted({domain for domain, _ in by_operator}):
        own = [seen for (d, _), seen in by_operator.items() if d == domain]
        totals = sum(own, Counter())
        wrong = sum(bool(s["wrong"]) for s in own)
        exact = sum(bool(s["exact"]) and not s["wrong"] for s in own)
        frozen = sum(bool(s["frozen"]) and not s["exact"] and not s["wrong"] for s in own)
        counts = [totals[k] for k in ("exact", "frozen", "wrong", "skipped")]
        rows.append([domain or "ai.onnx", len(own), exact, frozen, wrong, *counts])
    columns = ["domain", "operators", "exact", "frozen", "wrong", "models exact", "frozen", "wrong", "skipped"]
    show("operators", columns, rows)
    untried = sorted(op for (_, op), seen in by_operator.items() if set(seen) == {"skipped"})
    print(f"{time.perf_counter() - start:.0f} s; cannot be run here: {', '.join(untried) or 'none'}")
    for finding in found:
        if finding.outcome == "wrong":
            print(f"{finding.name}: {finding.detail}")
    if options.output:
        options.output.write_text(json.dumps([asdict(f) for f in found], indent=0))


if __name__ == "__main__":
    main()
