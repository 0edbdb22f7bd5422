"""Where the time of a run went, as a tree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console

from hwpass.figures import human_seconds
from hwpass.reporting.schema import Report
from hwpass.reporting.schema_of_passes import PassRecord, TimedPart
from hwpass.reporting.tables import print_line, print_table

#: Parts of less than this share of the run are left to the JSON.
LEAST = 0.001

#: What one level is set in by.
INDENT = "  "


def timing_rows(report: Report) -> list[tuple[str, str, str, str]]:
    """Part, seconds, per cent of the whole run and how often it was done: passes in order, parts under their pass."""
    whole = max(report.seconds, sum(item.seconds for item in report.passes), 1e-9)
    rows = []
    for item in report.passes:
        name = item.name.partition("{")[0]
        if item.skipped is not None:
            rows.append((name, "-", "-", f"did not run: {item.skipped}"))
            continue
        rows += [_row(name, item.seconds, whole, 1, 0), *_inner(item, whole, 1)]
    rest = whole - sum(item.seconds for item in report.passes)
    rows.append(_row("outside passes", rest, whole, 1, 0))
    return rows


def _inner(of: PassRecord | TimedPart, whole: float, depth: int) -> Iterator[tuple[str, str, str, str]]:
    parts: Sequence[TimedPart] = of.parts
    for part in parts:
        if part.seconds >= LEAST * whole:
            yield _row(part.name, part.seconds, whole, part.count, depth)
            yield from _inner(part, whole, depth + 1)
    rest = of.seconds - sum(part.seconds for part in parts)
    if parts and rest >= LEAST * whole:
        yield _row("the rest of it", rest, whole, 1, depth)


def _row(name: str, seconds: float, whole: float, count: int, depth: int) -> tuple[str, str, str, str]:
    seconds = max(seconds, 0.0)
    often = f"{count} times" if count > 1 else ""
    return (INDENT * depth + name, human_seconds(seconds), f"{100 * seconds / whole:.1f} %", often)


def show_timing(report: Report, console: Console) -> None:
    """Print the tree."""
    rows = timing_rows(report)
    print_line(console, "")
    print_table(console, ("time", "", "share", ""), rows, "lrrl", most=len(rows))
