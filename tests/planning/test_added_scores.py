"""A score from outside: one class, chosen by its name, listed with the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from distributions import distribution, python
from sketch import Sketch

from hwpass.coupling.groups import couple
from hwpass.errors import UsageError
from hwpass.model.model import Model
from hwpass.planning import score as registry
from hwpass.planning.plan import Plan
from hwpass.planning.score import Importance, Score, Seen, choices, importance, judge, register, scores
from hwpass.plugins import SCORES

ROOT = Path(__file__).parents[2]
CNN = ROOT / "fixtures/cnn.onnx"

FIRST = """
import numpy as np
from hwpass.planning.score import Score, register

@register
class First(Score):
    name = "first-come"
    summary = "the channels that stand first"
{more}
    def importance(self, seen):
        return [np.arange(group.width, 0.0, -1.0) for group in seen.coupling.groups]
"""


@pytest.mark.parametrize("entry", ["first = {module}", "first = {module}:First"])
def test_a_score_from_outside_decides_which_channels_go(entry: str, tmp_path: Path) -> None:
    text = FIRST.format(more="") if entry.endswith("}") else FIRST.format(more="").replace("@register\n", "")
    distribution(tmp_path, "queue", text, {SCORES: entry})
    done = python(
        tmp_path, "-m", "hwpass", "run", str(CNN), "--target", "mobile-cpu", "--macs", "0.7x", "--score", "first-come",
        "--plan", "plan.json", "--dry-run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    groups = Plan.read(tmp_path / "plan.json").groups
    assert any(len(group.kept) < group.width for group in groups)
    for group in groups:
        assert list(group.kept) == list(range(len(group.kept)))


def test_a_score_from_outside_is_listed(tmp_path: Path) -> None:
    distribution(tmp_path, "queue", FIRST.format(more=""), {SCORES: "first = {module}"})
    listed = python(tmp_path, "-m", "hwpass", "passes")
    assert "    first-come: the channels that stand first\n" in listed.stdout
    assert "bn|first-come|gram" in python(tmp_path, "-m", "hwpass", "run", "--help").stdout


def test_a_score_from_outside_may_need_data(tmp_path: Path) -> None:
    distribution(tmp_path, "queue", FIRST.format(more="    needs_data = True\n"), {SCORES: "first = {module}"})
    done = python(
        tmp_path, "-m", "hwpass", "run", str(CNN), "--target", "mobile-cpu", "--macs", "0.7x", "--score", "first-come"
    )
    assert done.returncode == 2
    assert "--score first-come looks at activations: give inputs with --calib" in done.stderr


def test_a_score_that_was_left_out_is_named_with_the_reason(tmp_path: Path) -> None:
    distribution(tmp_path, "queue", FIRST.format(more="") + "raise ValueError('closed')", {SCORES: "first = {module}"})
    done = python(
        tmp_path, "-m", "hwpass", "run", str(CNN), "--target", "mobile-cpu", "--macs", "0.7x", "--score", "first-come"
    )
    assert done.returncode == 2
    first, last = done.stderr.splitlines()
    assert first.endswith("left out: ValueError: closed")
    assert "--score first-come: no such score; choose activation, auto, " in last
    assert last.endswith("left out: ValueError: closed")


def test_every_score_says_what_it_is() -> None:
    assert [name for name, _ in choices()] == list(scores())
    for name, cls in scores().items():
        assert cls.name == name
        assert cls.summary
        assert cls.__doc__


def test_names_that_no_pipeline_can_have_are_refused() -> None:
    with pytest.raises(ValueError, match="no name for a score"):
        register(type("Odd", (Score,), {"name": "a|b", "importance": lambda self, seen: []}))
    with pytest.raises(ValueError, match="two scores named l2"):
        register(type("Other", (Score,), {"name": "l2", "importance": lambda self, seen: []}))


@pytest.mark.parametrize("given", [[1.0, 2.0], [1.0, float("nan"), 2.0]])
def test_what_a_score_gives_is_looked_at(given: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    class Short(Score):
        """Too few figures, or one that is none."""

        name = "short"

        def importance(self, seen: Seen) -> Importance:
            return [np.asarray(given)]

        def judged(self, seen: Seen) -> tuple[Importance, Importance]:
            return [np.zeros(4)], self.importance(seen)

    s = Sketch()
    h = s.op("MatMul", s.input(["N", 2]), s.const(np.ones((2, 3))))
    s.output(s.op("MatMul", h, s.const(np.ones((3, 2)))))
    coupling = couple(Model.load(s.model()))
    monkeypatch.setitem(registry._SCORES, "short", Short)
    with pytest.raises(UsageError, match=r"importance of group .* are not 3 numbers"):
        judge("short", Seen(coupling))
    assert [len(one) for one in importance(coupling, "l2")] == [3]
