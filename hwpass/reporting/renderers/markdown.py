"""The report as Markdown, for the summary of a build or the text of a merge request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from hwpass.figures import human_seconds
from hwpass.reporting.renderer import Renderer, register
from hwpass.reporting.words import NOTES, abbreviated, figure, milliseconds

if TYPE_CHECKING:
    from hwpass.reporting.schema import Report

#: What may stand between backticks as it is; anything else is escaped sign by sign.
_PLAIN = re.compile(r"(?! )[^`|\\<&]+(?<! )")
#: Signs that mean something in Markdown. Those that tables and HTML see first become entities.
_SIGNS = re.compile(r"[&<>|`\\*_\[\]#~!]")
#: What begins a list, or is a rule, where it begins a line.
_BULLET = re.compile(r"^(\d*)([-+.)])(?=[-\s]|$)")


@register
class Markdown(Renderer):
    """Tables as GitHub and GitLab show them."""

    suffixes = (".md",)
    summary = "Markdown, for the summary of a build"

    def page(self, report: Report) -> str:
        parts = [
            *_head(report),
            _table(("", "before", "after", "ratio", "asked"), _texts(report.cost_rows()), "lrrrr"),
            *_section("Verdicts", ("verdict", "outcome", "figures"), _verdicts(report), "lll"),
            *_section(
                "Search within the allowed drop",
                ("tried", "latency", "metric", "drop", "allowed drop"),
                _texts(report.trial_rows()),
                "rrrrl",
            ),
            *_groups(report),
            *_section("Frozen", ("nodes", "reason", "which"), _frozen(report), "rll"),
            *_section("Found by passes", NOTES, _texts(report.note_rows()), "lll"),
            *_measured(report),
            *_warnings(report),
            *_section("Passes", ("pass", "time", "changed"), _passes(report), "lrl"),
        ]
        return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    r"""Text on one line of Markdown that shows it as it is.

    >>> print(escaped("a|b <i> 2*3"), escaped("- x"), escaped("1. y"), escaped("a\nb"))
    a&#124;b &#60;i&#62; 2\*3 \- x 1\. y a&#92;nb
    """
    return _BULLET.sub(r"\1\\\2", _SIGNS.sub(_without_meaning, _printable(text).strip()))


def name(text: str) -> str:
    """A name as code.

    >>> print(name("conv_1"), name("a|b"))
    `conv_1` a&#124;b
    """
    text = _printable(text)
    return f"`{text}`" if _PLAIN.fullmatch(text) else escaped(text)


def _without_meaning(found: re.Match[str]) -> str:
    return f"&#{ord(found[0])};" if found[0] in "&<>|`\\" else f"\\{found[0]}"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _head(report: Report) -> list[str]:
    target = f" for {escaped(report.target)}" if report.target else ""
    asked = ", ".join(f"{metric} {value}" for metric, value in sorted(report.budget.items()))
    facts = [
        f"budget {asked}" if asked else "no budget",
        f"{report.model.nodes} nodes, opset {report.model.opset}",
        f"sha256 {report.model.sha256[:16]}",
        f"hwpass {report.hwpass}",
        f"{human_seconds(report.seconds)} in all",
    ]
    return [f"# {name(report.model.path)}{target}", escaped(" · ".join(facts))]


def _verdicts(report: Report) -> list[tuple[str, ...]]:
    def outcome(state: str, alarming: bool) -> str:
        return f"**{state}**" if state == "failed" or alarming else state

    return [(row.name, outcome(row.state, row.alarming), escaped(row.text)) for row in report.verdicts.rows()]


def _groups(report: Report) -> list[str]:
    changed = report.changed_groups()
    if not changed:
        return ["## Groups", "No group was changed."]
    rows = [
        (
            name(group.name), f"{group.before} → {group.after}", figure(group.loss),
            milliseconds(group.latency_gain_ms), _names(group.layers, 3),
        )
        for group in changed
    ]  # fmt: skip
    headings = ("group", "channels", "loss", "gain", "layers")
    return [*_section("Groups", headings, rows, "lrrrl"), f"{len(changed)} of {len(report.groups)} groups changed"]


def _frozen(report: Report) -> list[tuple[str, ...]]:
    found = report.frozen_by_reason()
    return [(str(len(nodes)), escaped(reason), _names(nodes, 5)) for reason, nodes in found]


def _measured(report: Report) -> list[str]:
    headings, rows = report.measured_table()
    return _section("After each pass", headings, _texts(rows), "lrrrrrrr"[: len(headings)])


def _warnings(report: Report) -> list[str]:
    return ["## Warnings", "\n".join(f"- {escaped(text)}" for text in report.warnings)] if report.warnings else []


def _passes(report: Report) -> list[tuple[str, ...]]:
    return [(name(p.name), human_seconds(p.seconds), p.outcome) for p in report.passes]


def _names(given: Sequence[str], limit: int) -> str:
    return abbreviated([name(each) for each in given], limit)


def _texts(rows: Iterable[Sequence[str]]) -> list[tuple[str, ...]]:
    return [tuple(map(escaped, row)) for row in rows]


def _section(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], sides: str) -> list[str]:
    return [f"## {title}", _table(headings, rows, sides)] if rows else []


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], sides: str) -> str:
    """Rows whose cells are Markdown already; `sides` has an `r` for each column that is set flush right."""
    edges = ["---:" if side == "r" else "---" for side in sides]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, edges, *rows))
