"""The report as one HTML file: inline style, inline bars, nothing fetched from anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from hwpass.figures import human_seconds
from hwpass.reporting.renderer import Renderer, register
from hwpass.reporting.words import NOTES, abbreviated

if TYPE_CHECKING:
    from hwpass.reporting.schema import GroupChange, Report

STYLE = """
:root { color-scheme: light dark; --line: #8885; --soft: #8882; --old: #888a; --new: #2a7ab8; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; background: var(--soft); }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.passed { color: #188038; font-weight: 600; } .failed, .alarming { color: #c5221f; font-weight: 600; }
.open { font-weight: 600; }
.note { opacity: .7; } svg { display: block; } .old { fill: var(--old); } .new { fill: var(--new); }
td { overflow-wrap: anywhere; }
"""

BAR_WIDTH = 200


@register
class Html(Renderer):
    """A web page."""

    suffixes = (".html", ".htm")
    summary = "a web page in one file"

    def page(self, report: Report) -> str:
        return page(report)


def page(report: Report) -> str:
    """The whole file."""
    target = f" for {report.target}" if report.target else ""
    asked = ", ".join(f"{name} {value}" for name, value in sorted(report.budget.items()))
    facts = [
        f"budget {asked}" if asked else "no budget",
        f"{report.model.nodes} nodes, opset {report.model.opset}",
        f"sha256 {report.model.sha256[:16]}",
        f"hwpass {report.hwpass}",
        f"{human_seconds(report.seconds)} in all",
    ]
    parts = [
        f"<h1>{escape(report.model.path)}{escape(target)}</h1>",
        f'<p class="note">{escape(" · ".join(facts))}</p>',
        _table(("", "before", "after", "ratio", "asked"), report.cost_rows(), numbers=(1, 2, 3, 4)),
        _verdicts(report),
        _trials(report),
        _groups(report.changed_groups(), len(report.groups)),
        _frozen(report),
        _notes(report),
        _measured(report),
        _warnings(report.warnings),
        _passes(report),
    ]
    body = "\n".join(part for part in parts if part)
    title = escape(f"{report.model.path}{target}")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _verdicts(report: Report) -> str:
    rows = report.verdicts.rows()
    if not rows:
        return ""
    lines = []
    for row in rows:
        kind = row.state if row.state != "not judged" else "alarming" if row.alarming else "open"
        outcome = f'<td class="{kind}">{row.state}</td>'
        lines.append(f"<tr><td>{escape(row.name)}</td>{outcome}<td>{escape(row.text)}</td></tr>")
    head = "<tr><th>verdict</th><th>outcome</th><th>figures</th></tr>"
    return f"<h2>Verdicts</h2>\n<table>{head}{''.join(lines)}</table>"


def _trials(report: Report) -> str:
    if not report.trials:
        return ""
    table = _table(("tried", "latency", "metric", "drop", "allowed drop"), report.trial_rows(), numbers=(0, 1, 2, 3))
    return f"<h2>Search within the allowed drop</h2>\n{table}"


def _groups(changed: Sequence[GroupChange], total: int) -> str:
    if not changed:
        return "<h2>Groups</h2>\n<p>No group was changed.</p>"
    widest = max(group.before for group in changed)
    lines = []
    for group in changed:
        loss = "-" if group.loss is None else f"{group.loss:.3g}"
        gain = None if group.latency_gain_ms is None else group.latency_gain_ms / 1e3
        lines.append(
            f"<tr><td>{escape(group.name)}</td>"
            f'<td class="number">{group.before} → {group.after}</td><td>{_bar(group, widest)}</td>'
            f'<td class="number">{loss}</td><td class="number">{human_seconds(gain)}</td>'
            f'<td title="{escape(", ".join(group.layers))}">{escape(abbreviated(group.layers))}</td></tr>'
        )
    head = (
        '<tr><th>group</th><th class="number">channels</th><th>width</th><th class="number">loss</th>'
        '<th class="number">gain</th><th>layers</th></tr>'
    )
    note = f'<p class="note">{len(changed)} of {total} groups changed</p>'
    return f"<h2>Groups</h2>\n<table>{head}{''.join(lines)}</table>\n{note}"


def _bar(group: GroupChange, widest: int) -> str:
    old, new = (round(BAR_WIDTH * size / widest, 1) if widest else 0 for size in (group.before, group.after))
    return (
        f'<svg width="{BAR_WIDTH}" height="14" role="img" aria-label="{group.before} to {group.after}">'
        f'<rect class="old" width="{old}" height="6"/>'
        f'<rect class="new" y="7" width="{new}" height="6"/></svg>'
    )


def _frozen(report: Report) -> str:
    if not report.frozen:
        return ""
    rows = [(str(len(nodes)), reason, abbreviated(nodes, 5)) for reason, nodes in report.frozen_by_reason()]
    return "<h2>Frozen</h2>\n" + _table(("nodes", "reason", "which"), rows, numbers=(0,))


def _notes(report: Report) -> str:
    return "<h2>Found by passes</h2>\n" + _table(NOTES, report.note_rows()) if report.notes else ""


def _measured(report: Report) -> str:
    headings, rows = report.measured_table()
    if not rows:
        return ""
    return "<h2>After each pass</h2>\n" + _table(headings, rows, numbers=range(1, len(headings)))


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    return "<h2>Warnings</h2>\n<ul>" + "".join(f"<li>{escape(text)}</li>" for text in warnings) + "</ul>"


def _passes(report: Report) -> str:
    if not report.passes:
        return ""
    rows = [(item.name, human_seconds(item.seconds), item.outcome) for item in report.passes]
    return "<h2>Passes</h2>\n" + _table(("pass", "time", "changed"), rows, numbers=(1,))


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    def cells(tag: str, values: Sequence[str]) -> str:
        marks = [' class="number"' if place in numbers else "" for place in range(len(values))]
        return "".join(f"<{tag}{mark}>{escape(v)}</{tag}>" for mark, v in zip(marks, values, strict=True))

    lines = [f"<tr>{cells('th', headings)}</tr>", *(f"<tr>{cells('td', row)}</tr>" for row in rows)]
    return f"<table>{''.join(lines)}</table>"
