"""The search by halves: what it finds, what it cannot tell, and checks that are commands."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from hwpass.command.cli import main
from hwpass.context import Context
from hwpass.errors import InputError, UsageError
from hwpass.instruments.recording import Recording
from hwpass.workflows.bisect import _asker, _Search, bisect

FIXTURES = Path(__file__).parents[2] / "fixtures"
CNN, RESNET = FIXTURES / "cnn.onnx", FIXTURES / "resnet_se.onnx"
PIPELINE = "fold,fuse-bn,prune-channels{macs=0.6x,score=l2},lower-norms"


@given(st.integers(2, 300), st.data())
def test_the_first_bad_of_many_is_found_in_few_runs(count: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(1, count))
    untold = data.draw(st.sets(st.integers(1, count - 1), max_size=5))
    asked: list[int] = []

    def good(number: int) -> bool | None:
        asked.append(number)
        return None if number in untold else number < first

    low, high = _Search(Recording(), lambda path: None, Context(), [], None)._between(count, good)
    told = [n for n in range(count) if n not in untold]
    bad = [n for n in told if n >= first]
    assert low == max(n for n in told if n < first)
    assert high == (min(bad) if bad else None)
    assert len(asked) == len(set(asked)) or high is None
    assert len(asked) <= count.bit_length() + 2 + 2 * len(untold)


def counting(limit: int) -> Callable[[Path], bool]:
    """Good while a model has more elements in its initialisers than a limit."""

    def check(path: Path) -> bool:
        sizes = [onnx.numpy_helper.to_array(t).size for t in onnx.load(path).graph.initializer]
        return sum(sizes) > limit

    return check


def test_the_group_that_takes_a_model_below_a_size_is_named() -> None:
    elements = 519_818
    found = bisect(CNN, "mobile-cpu", counting(int(elements * 0.9)), pipeline=PIPELINE)
    assert [(s.name, s.place) for s in found.passes] == [("prune-channels", 3)]
    (group,) = found.groups
    assert group.what.endswith("channels")
    assert 1 <= group.place <= group.of
    assert found.lines()[1].startswith("and in it the group: /")


def test_a_check_that_holds_has_nothing_to_find() -> None:
    found = bisect(CNN, "mobile-cpu", lambda path: True, pipeline=PIPELINE)
    assert (found.passes, found.groups, found.runs) == ((), (), 2)
    assert "there is nothing to find (2 runs of the check)" in found.lines()[0]


def test_a_model_that_is_bad_already_is_no_start() -> None:
    checks: list[Callable[[Path], bool | None]] = [lambda path: False, lambda path: None]
    for check in checks:
        with pytest.raises(InputError, match="the check does not pass on the model as it was given"):
            bisect(CNN, "mobile-cpu", check, pipeline=PIPELINE)


def test_what_the_check_cannot_tell_apart_is_told() -> None:
    sizes = [onnx.numpy_helper.to_array(t).size for t in onnx.load(RESNET).graph.initializer]
    dense = counting(int(0.9 * sum(sizes)))

    def check(path: Path) -> bool | None:
        fused = all(node.op_type != "BatchNormalization" for node in onnx.load(path).graph.node)
        return True if not fused else None if dense(path) else False

    found = bisect(RESNET, "mobile-cpu", check, pipeline=PIPELINE)
    assert found.untold == 1
    assert [s.name for s in found.passes] == ["fuse-bn", "prune-channels"]
    assert "which the check could not tell apart" in found.lines()[0]
    assert found.groups == ()
    never = bisect(RESNET, "mobile-cpu", lambda path: check(path) or None, pipeline=PIPELINE)
    assert never.passes == ()
    assert "the check passes wherever it can tell" in never.lines()[0]


def test_the_passes_of_a_usual_run_are_searched() -> None:
    found = bisect(CNN, "mobile-cpu", counting(500_000), macs=0.5, score="l2")
    assert [s.name for s in found.passes] == ["prune-channels"]


@pytest.mark.parametrize(
    ("check", "status", "message"),
    [
        ("true", 2, "expected a program, and {model}"),
        ("'true {model}", 2, "No closing quotation"),
        ("no-such-program-here {model}", 3, "no-such-program-here cannot be started"),
        (f"{sys.executable} -c 'raise SystemExit(126)' {{model}}", 3, "it ended with status 126"),
        (f"{sys.executable} -c 'raise SystemExit(1)' {{model}}", 3, "does not pass on the model as it was given"),
        (f"{sys.executable} -c '' {{model}}", 0, "there is nothing to find"),
    ],
)
def test_commands_as_checks(check: str, status: int, message: str) -> None:
    arguments = ["bisect", str(CNN), "--target", "mobile-cpu", "--pipeline", "fold,fuse-bn", "--check", check]
    ended = CliRunner().invoke(main, arguments)
    assert ended.exit_code == status, ended.output
    assert message in ended.output


def test_a_command_that_cannot_tell(tmp_path: Path) -> None:
    (tmp_path / "a b.onnx").write_bytes(b"")
    for status, wanted in ((0, True), (1, False), (124, False), (125, None)):
        program = f"import os, sys; assert os.path.exists(sys.argv[1]); sys.exit({status})"
        assert _asker(f"{sys.executable} -c '{program}' {{model}}")(tmp_path / "a b.onnx") is wanted


def test_a_pipeline_and_a_budget_conflict() -> None:
    with pytest.raises(UsageError, match="says what runs"):
        bisect(CNN, "mobile-cpu", lambda path: True, pipeline="fold", macs=0.5)
