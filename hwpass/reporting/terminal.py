"""The report in a terminal or a pipe: one line per cost, verdict, group and reason."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from hwpass.errors import in_words
from hwpass.figures import human_seconds
from hwpass.node_names import short, short_path, shortened
from hwpass.reporting.schema import GroupChange, Report, VerdictRow
from hwpass.reporting.tables import ROWS, print_line, print_table
from hwpass.reporting.timing import show_timing
from hwpass.reporting.words import NOTES, abbreviated, figure, milliseconds


def show(report: Report, console: Console, *, timing: bool = False) -> None:
    """Print it; `timing` adds where the time went."""
    against = f" for {report.target}" if report.target else ""
    width = f" (channels {report.budget['channels']})" if "channels" in report.budget else ""
    print_line(console, f"{short_path(report.model.path)}{against}{width}", "bold")
    rows = report.cost_rows()
    if any(row[-1] for row in rows):
        print_table(console, ("", "before", "after", "ratio", "asked"), rows, "lrrrl")
    else:
        print_table(console, ("", "before", "after", "ratio"), [row[:-1] for row in rows], "lrrl")
    for row in report.verdicts.rows():
        console.print(verdict_line(row), soft_wrap=True)
    if report.trials:
        print_line(console, "")
        print_table(console, ("tried", "latency", "metric", "drop", "allowed drop"), report.trial_rows(), "rrrrl")
    _show_groups(report, console)
    _show_frozen(report, console)
    if report.notes:
        print_line(console, "")
        print_table(console, NOTES, report.note_rows(), "lll")
    headings, on_the_way = report.measured_table()
    if on_the_way:
        print_line(console, "")
        print_table(console, headings, on_the_way, "lrrrrrrr")
    for origin in dict.fromkeys(asked.origin for asked in report.options.values()):
        if origin not in ("call", "command line"):
            told = [f"{name.replace('_', '-')} {a.value}" for name, a in report.options.items() if a.origin == origin]
            print_line(console, f"from {short_path(origin)}: {', '.join(told)}", "dim")
    for warning in report.warnings:
        console.print(Text("warning: ", "yellow") + Text(warning), soft_wrap=True)
    if timing:
        show_timing(report, console)
    print_line(console, f"{human_seconds(report.seconds)} in all", "dim")


def close(
    report: Report, console: Console, output: str | None, others: Sequence[str | None], dry_run: bool = False
) -> None:
    """Print the closing line; where no model was written, on standard error."""
    text = closing(report, output, others, dry_run)
    if output is None:
        click.echo(text, err=True)
    else:
        print_line(console, text)


def closing(report: Report, output: str | None, others: Sequence[str | None] = (), dry_run: bool = False) -> str:
    """What was written where and how large it is, and that costs are predictions: the last line of a run.

    `output` is the model's place (`-` is standard output, None nowhere), `others` the places of what else was written.
    """
    before, after = report.before.size_bytes, report.after.size_bytes
    weights = f"weights {after:,} bytes, {before:,} before"
    if dry_run:
        text = "no model was written: this was a dry run"
    elif output is None:
        text = "no model was written: give -o OUT to keep it"
    elif output == "-":
        text = f"wrote the model to standard output ({weights})"
    else:
        text = f"wrote {short_path(output)}: {_bytes_of(Path(output), after):,} bytes ({weights})"
    also = [short_path(other) for other in others if other is not None and other != "-"]
    text += f"; also {', '.join(also)}" if also else ""
    foretold = report.after.latency_ms is not None
    return text + ("; latency is predicted, not measured: see `hwpass bench`" if foretold else "")


def _bytes_of(path: Path, weights: int) -> int:
    """Bytes of a model's file, and of its weights where they stand beside it."""
    size = path.stat().st_size
    beside = path.with_name(path.name + ".data")
    return size + beside.stat().st_size if size < weights and beside.is_file() else size


def verdict_line(row: VerdictRow) -> Text:
    """A verdict in one line: green is kept for what was judged and passed."""
    outcome = {
        "passed": Text("passed", "green"),
        "failed": Text("FAILED", "bold red"),
        "not judged": Text("not judged", "bold red" if row.alarming else "yellow"),
    }[row.state]
    return Text(f"{row.name} ") + outcome + Text(f": {row.text}" if row.text else "")


def _show_groups(report: Report, console: Console) -> None:
    changed = report.changed_groups()
    if not changed:
        print_line(console, "no group was changed")
        return
    shown = _most_telling(changed)
    names = shortened([group.name for group in shown], max(20, console.width * 2 // 5))
    rows = []
    for group in shown:
        others = [short(layer) for layer in group.layers if layer != group.name]
        rows.append((
            names[group.name], f"{group.before} -> {group.after}", figure(group.loss),
            milliseconds(group.latency_gain_ms), ", ".join(others),
        ))  # fmt: skip
    print_line(console, "")
    print_table(console, ("group", "channels", "loss", "gain", "together with"), rows, "lrrrl")
    more = len(changed) - len(shown)
    print_line(
        console,
        (f"and {more} more that gain less (see {in_words('--json', 'its JSON')}); " if more else "")
        + f"{len(changed)} of {len(report.groups)} groups changed",
        "dim",
    )


def _most_telling(changed: list[GroupChange]) -> list[GroupChange]:
    """The ROWS groups that gain most latency (or else lost most channels), in the report's order."""

    def worth(place: int) -> tuple[float, float]:
        group = changed[place]
        return (group.latency_gain_ms or 0.0, 1 - group.after / group.before)

    places = sorted(range(len(changed)), key=worth, reverse=True)[:ROWS]
    return [changed[place] for place in sorted(places)]


def _show_frozen(report: Report, console: Console) -> None:
    if not report.frozen:
        return
    rows = []
    for reason, nodes in report.frozen_by_reason():
        rows.append((str(len(nodes)), reason, abbreviated([short(node) for node in nodes], 4)))
    print_line(console, "")
    print_table(console, ("frozen", "because", "layers"), rows, "rll")
