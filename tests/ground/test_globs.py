"""Globs of layers: every name can be written, and survives the text of a pipeline."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from sketch import Sketch

import hwpass
from hwpass.command.cli import main
from hwpass.globs import escape, matches
from hwpass.manager import PassManager
from hwpass.passes.prune_channels import PruneChannels
from hwpass.passes.verify import Verify

NAMES = st.text(max_size=8) | st.text("ab*?[]!-\\|,{}\"' =\n", max_size=8)


@given(NAMES, NAMES)
def test_an_escaped_name_is_that_name_and_no_other(name: str, other: str) -> None:
    assert matches(escape(name), name)
    assert matches(escape(name), other) == (name == other)
    assert matches(escape(name), escape(name)) == (escape(name) == name)


@given(NAMES)
def test_a_name_as_it_is_means_itself(name: str) -> None:
    """But for names that hold an escaped character, which are the escapes of other names."""
    if not any(f"\\{c}" in name for c in "*?[\\"):
        assert matches(name, name)


@given(st.text("ab*?[]!-", max_size=8), st.text("ab*?[]!-", max_size=8))
def test_without_a_backslash_globs_are_those_of_fnmatch(glob: str, name: str) -> None:
    assert matches(glob, name) == (fnmatchcase(name, glob) or name == glob)


@pytest.mark.parametrize(
    ("glob", "name", "matching"),
    [
        ("a\\*", "a*", True), ("a\\*", "ab", False), ("a\\*", "a\\*", False), ("a\\b", "ab", True),
        ("a\\b", "a\\b", True), ("a\\", "a\\", True), ("[\\]", "\\", True), ("[a\\*", "[a*", True),
        ("[a\\*", "a", False), ("a?", "a\n", True), ("A", "a", False), ("[]]", "]", True), ("[!a]", "b", True),
    ],
)  # fmt: skip
def test_globs_by_hand(glob: str, name: str, matching: bool) -> None:
    assert matches(glob, name) is matching


@given(st.lists(NAMES, max_size=4).map(tuple))
def test_tuples_of_globs_survive_the_text_of_a_pipeline(keep: tuple[str, ...]) -> None:
    for globs in (keep, tuple(map(escape, keep))):
        (step,) = PassManager.parse(str(PassManager([PruneChannels(keep=globs)]))).steps
        assert isinstance(step, PruneChannels)
        assert step.keep == globs


def test_one_text_is_one_glob() -> None:
    assert PruneChannels(keep="conv1").keep == ("conv1",)  # type: ignore[arg-type]
    assert PruneChannels(keep=["a", "b"]).keep == ("a", "b")  # type: ignore[arg-type]
    assert Verify(fidelity="cosine>=0.9").fidelity == ("cosine>=0.9",)  # type: ignore[arg-type]
    with pytest.raises(hwpass.UsageError, match="keep: a int is no text"):
        PruneChannels(keep=[1])  # type: ignore[arg-type]


ODD = ["conv[0]", "a|b", 'x,{y} "q"', "star*", "what?", "back\\slash", "conv0", " space "]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chain of layers with names that have every special character."""
    import onnx

    s = Sketch()
    x = s.input(["N", 8])
    for width, new in zip([8, *[12] * 7], [*[12] * 7, 4], strict=True):
        x = s.op("Relu", s.linear(x, width, new))
    s.output(x)
    proto = s.model()
    layers = [node for node in proto.graph.node if node.op_type in ("Gemm", "MatMul")]
    for node, name in zip(layers, ODD, strict=True):
        node.name = name
    path = tmp_path_factory.mktemp("odd") / "odd.onnx"
    onnx.save(proto, path)
    return path


@pytest.mark.parametrize("name", ODD[:-1])
@pytest.mark.parametrize("exactly", [False, True])
def test_a_layer_of_any_name_is_kept(name: str, exactly: bool, odd: Path) -> None:
    glob = escape(name) if exactly else name
    result = hwpass.run(odd, "mobile-cpu", channels=0.5, keep=glob, score="l2", compensate="off", align=1)
    groups = result.report.groups
    assert any(name in group.layers for group in groups)
    for group in groups:
        whole = group.before == group.after
        # As a glob, `conv[0]` means `conv0` as well.
        assert whole if name in group.layers else not whole or not exactly


def test_the_command_line_takes_any_name(odd: Path) -> None:
    words = ["run", str(odd), "--target", "mobile-cpu", "--channels", "0.5x", "--score", "l2", "--compensate", "off"]
    for name in ODD[:-1]:
        ended = CliRunner().invoke(main, [*words, "--keep", name])
        assert ended.exit_code == 0, ended.stderr
    ended = CliRunner().invoke(main, [*words, "--keep", "no|such,{layer}"])
    assert ended.exit_code == 2
    assert "--keep no|such,{layer}: no layer has such a name" in ended.stderr
