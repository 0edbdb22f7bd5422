"""`--input` reaches the made-up inputs, and is refused where it would do nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import hwpass
from hwpass.command.cli import main

CNN = Path(__file__).parents[2] / "fixtures" / "cnn.onnx"


def told(**asked: Any) -> str:
    report = hwpass.run(CNN, "mobile-cpu", macs=0.7, distill="off", **asked).report
    (found,) = [text for text in report.warnings if "synthetic inputs" in text]
    return found


def test_what_is_stated_is_what_the_report_says() -> None:
    assert "in [0, 255], as stated" in told(input="image:range=0..255")
    assert "in the scale of mean=0.1,std=0.5, as stated" in told(input=["mean=0.1,std=0.5"])


def test_a_sweep_takes_it_too() -> None:
    with pytest.raises(hwpass.UsageError, match="no such input; it has 'image'"):
        hwpass.sweep(CNN, "mobile-cpu", points=[0.7], input="picture:range=0..1")


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"score": "l2"}, "no effect"),
        ({"compensate": "off"}, "no effect"),
        ({"calib": {"image": np.zeros((4, 1, 28, 28), np.float32)}}, "taken as they are: leave one out"),
    ],
)
def test_it_is_refused_where_it_does_nothing(asked: dict[str, Any], why: str) -> None:
    with pytest.raises(hwpass.UsageError, match=why):
        hwpass.run(CNN, "mobile-cpu", macs=0.7, input="range=0..1", **asked)


def test_the_command_line_says_it_in_its_words(tmp_path: Path) -> None:
    out = tmp_path / "small.onnx"
    given = ["run", str(CNN), "--target", "mobile-cpu", "--macs", "0.7x", "--input", "image:range=1..0", "-o", str(out)]
    found = CliRunner().invoke(main, given)
    assert found.exit_code == 2
    assert "--input image:range=1..0: a range is LOW..HIGH" in found.output
    assert not out.exists()
