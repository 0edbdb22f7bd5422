"""A model against budgets as it is: what continuous integration asks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from hwpass.command.cli import main
from hwpass.errors import UsageError
from hwpass.workflows.check import check_model
from hwpass.workflows.profile import profile_model

CNN = Path(__file__).parents[2] / "fixtures/cnn.onnx"


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["check", str(CNN), *arguments])
    return done.exit_code, done.output


def test_within_is_0_and_over_is_4() -> None:
    taken = profile_model(CNN, "mobile-cpu").latency_ms
    assert run("--target", "mobile-cpu", "--latency", f"{taken * 1.01}ms")[0] == 0
    status, text = run("--target", "mobile-cpu", "--latency", f"{taken * 0.99}ms")
    assert status == 4
    assert "is more than the" in text


def test_json_says_what_is_taken(tmp_path: Path) -> None:
    out = tmp_path / "check.json"
    status, _ = run("--target", "mobile-cpu", "--macs", "1M", "--size", "100GB", "--json", str(out))
    assert status == 4
    found = json.loads(out.read_text())
    assert found["passed"] is False
    assert {each["metric"]: each["passed"] for each in found["budgets"]} == {"macs": False, "size": True}


def test_a_targets_limits_need_no_budget(tmp_path: Path) -> None:
    target = tmp_path / "small.toml"
    target.write_text(
        'name = "small"\ndescription = "x"\nextends = "mobile-cpu"\n[limits]\nflash_bytes = 1000\n'
        '[sources]\nlimits = "test"\n'
    )
    found = check_model(CNN, target, {})
    assert not found.passed
    assert found.budgets[0].of == "small"


@pytest.mark.parametrize(
    ("budgets", "message"), [({}, "nothing to check"), ({"latency": "0.5x"}, "share of the model")]
)
def test_what_says_nothing_is_refused(budgets: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_model(CNN, "mobile-cpu", budgets)
