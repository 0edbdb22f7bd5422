"""Forms of the report's file: Markdown, one from outside, and suffixes that nobody writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from distributions import distribution, python
from reports import report

from hwpass.errors import UsageError
from hwpass.plugins import RENDERERS
from hwpass.reporting.renderer import Renderer, register, renderer_for, renderers
from hwpass.reporting.renderers.markdown import Markdown, escaped, name
from hwpass.reporting.schema import (
    Costs,
    FidelityVerdict,
    Frozen,
    GroupChange,
    ModelInfo,
    PassRecord,
    Ratios,
    Trial,
    Verdicts,
)

ROOT = Path(__file__).parents[2]
CNN = ROOT / "fixtures/cnn.onnx"

CARD = """
from hwpass.reporting.renderer import Renderer, register
{decorator}
class Card(Renderer):
    '''One line.'''
    suffixes = (".card",)
    summary = "one line"
    {method}
"""
PAGE = "def page(self, report): return f'{report.model.nodes} nodes: {report.ratio.macs:.2f}x'"
RUN = ("-m", "hwpass", "run", str(CNN), "--target", "mobile-cpu", "--macs", "0.7x", "--score", "l2", "--dry-run")


@pytest.mark.parametrize("entry", ["card = {module}", "card = {module}:Card"])
def test_a_renderer_from_outside_writes_the_report(entry: str, tmp_path: Path) -> None:
    text = CARD.format(decorator="@register" if entry.endswith("}") else "", method=PAGE)
    distribution(tmp_path, "cards", text, {RENDERERS: entry})
    done = python(tmp_path, *RUN, "--report", "out.CARD")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\d+ nodes: 0\.\d\dx", (tmp_path / "out.CARD").read_text(encoding="utf-8"))
    assert "OUT.card" in python(tmp_path, "-m", "hwpass", "run", "--help").stdout


def test_a_renderer_that_was_left_out_is_named_with_the_reason(tmp_path: Path) -> None:
    distribution(tmp_path, "cards", CARD.format(decorator="@register", method=""), {RENDERERS: "card = {module}"})
    done = python(tmp_path, *RUN, "--report", "out.card")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 2
    assert "--report: the file ends in .card, and reports end in .htm, .html, .md; distribution cards" in done.stderr
    assert done.stderr.endswith("renderer .card has no method page\n")


def test_a_suffix_that_nobody_writes_is_refused_before_any_work(tmp_path: Path) -> None:
    # No model of this name is there: it is not looked for.
    done = python(tmp_path, *RUN[:3], "missing.onnx", *RUN[4:], "--report", "out.txt")
    assert done.returncode == 2
    assert done.stderr == "hwpass: --report: the file ends in .txt, and reports end in .htm, .html, .md\n"
    assert not (tmp_path / "out.txt").exists()


@pytest.mark.parametrize(
    ("path", "form"), [("-", "Html"), ("a/B.HTML", "Html"), ("x.htm", "Html"), ("x.md", "Markdown")]
)
def test_the_suffix_decides(path: str, form: str) -> None:
    assert type(renderer_for(path)).__name__ == form


def test_a_file_without_a_suffix_is_refused() -> None:
    with pytest.raises(UsageError, match=r"report: the file has no suffix, and reports end in \.htm, \.html, \.md"):
        renderer_for("report.d/out")


@pytest.mark.parametrize("suffixes", [(), ("md",), (".A",), (".a.b",)])
def test_suffixes_are_small_and_have_a_dot(suffixes: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="is no suffix"):
        register(type("Odd", (Renderer,), {"suffixes": suffixes, "page": lambda self, report: ""}))
    assert list(renderers()) == [".htm", ".html", ".md"]


def test_markdown_has_what_the_report_has() -> None:
    item = report(trials=[Trial(asked="0.6x", latency=0.6, metric=0.9, drop=0.01, passed=True)])
    text = Markdown().page(item)
    assert text.startswith(f"# `{item.model.path}` for {item.target}\n\n")
    for row in item.cost_rows():
        assert f"| {' | '.join(row)} |" in text
    for group in item.changed_groups():
        assert f"| `{group.name}` | {group.before} → {group.after} |" in text
    assert "| 0.6x | 0.6x | 0.9 | 0.01 | within |" in text
    assert text.endswith("|\n")


def test_markdown_of_a_bare_report() -> None:
    costs = Costs(macs=10, params=10, size_bytes=10)
    bare = report(
        target=None, budget={}, before=costs, after=costs, ratio=Ratios.of(costs, costs), verdicts=Verdicts(),
        groups=[], frozen=[], passes=[], warnings=[],
    )  # fmt: skip
    text = Markdown().page(bare)
    assert "No group was changed." in text
    assert "## Warnings" not in text
    assert "## Verdicts" not in text


EVIL = '<script>alert(1)</script>&"|`x`\\|[a](http://b)*_\n# \x1b[31m\u202e'


def test_markdown_is_escaped() -> None:
    text = Markdown().page(
        report(
            model=ModelInfo(path=EVIL, sha256="0" * 64, nodes=1, opset=17),
            target=EVIL,
            budget={EVIL: EVIL},
            groups=[GroupChange(name=EVIL, before=4, after=2, layers=[EVIL, "a|b"])],
            frozen=[Frozen(node=EVIL, reason=EVIL)],
            passes=[PassRecord(name=EVIL, seconds=1, changed=False)],
            warnings=[EVIL, "- a list", "1. a list", "# a heading"],
            verdicts=Verdicts(fidelity=FidelityVerdict(passed=True, state="passed", outputs={EVIL: {EVIL: 1.0}})),
        )
    )
    assert "<" not in text
    assert "](" not in text.replace("\\](", "")
    assert all(c.isprintable() or c == "\n" for c in text)
    assert r"- \- a list" in text
    assert r"- 1\. a list" in text
    assert r"- \# a heading" in text
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings[1:] == ["## Verdicts", "## Groups", "## Frozen", "## Warnings", "## Passes"]
    # Every row of a table has as many cells as its heading: no bar of a name divides one.
    for table in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1, table


def test_names_are_code_where_that_shows_them() -> None:
    assert name("/features/conv_1") == "`/features/conv_1`"
    assert name("a`b") == "a&#96;b"
    assert name(" a") == "a"
    assert name("") == ""
    assert escaped("_x_ *y* ~z~ #1 !") == r"\_x\_ \*y\* \~z\~ \#1 \!"
    assert [escaped(text) for text in ("0.6x", "-3", "---", "+", "2) b")] == ["0.6x", "-3", r"\---", r"\+", r"2\) b"]
