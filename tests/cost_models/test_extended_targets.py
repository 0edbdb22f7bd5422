"""Targets that say only how they differ from another, names that find them, and targets from other packages."""

from __future__ import annotations

from pathlib import Path

import pytest
from distributions import distribution, python

from hwpass.cost_models import find_targets, load_target, parse_target, target_names
from hwpass.errors import InputError, UsageError
from hwpass.plugins import TARGETS

CHILD = """
name = "faster"
description = "the same with twice the rate"
extends = "plain.toml"
[peak]
fp32 = 20
[sources.peak]
fp32 = "by definition of this test"
"""


@pytest.fixture
def folder(tmp_path: Path, plain: str) -> Path:
    (tmp_path / "plain.toml").write_text(plain)
    return tmp_path


def child(folder: Path, text: str = CHILD) -> Path:
    path = folder / "child.toml"
    path.write_text(text)
    return path


def test_a_target_takes_what_it_does_not_say_from_another(folder: Path) -> None:
    base, found = load_target(folder / "plain.toml"), load_target(child(folder))
    assert found.name == "faster"
    assert found.peak["fp32"] == 20
    assert (found.align, found.memory, found.fusion) == (base.align, base.memory, base.fusion)
    assert found.source("peak.fp32") == "by definition of this test"
    assert found.source("align") == base.source("align")
    assert not found.validation


def test_a_shipped_target_may_be_extended() -> None:
    text = CHILD.replace("plain.toml", "server-cpu")
    found, base = parse_target(text), load_target("server-cpu")
    assert found.op_ns == base.op_ns
    assert found.source("op_ns.Add") == base.source("op_ns.Add")


def test_a_changed_figure_wants_a_source_of_its_own(folder: Path) -> None:
    text = CHILD.partition("[sources.peak]")[0]
    with pytest.raises(InputError, match=r"sources\.peak\.fp32: missing; the target changes this figure"):
        load_target(child(folder, text))


def test_a_source_for_a_figure_that_the_target_does_not_say(folder: Path) -> None:
    with pytest.raises(InputError, match=r"sources\.align: there is no such figure in this file"):
        load_target(child(folder, CHILD.replace("[sources.peak]", '[sources]\nalign = "hearsay"\n[sources.peak]')))


@pytest.mark.parametrize("own", [True, False])
def test_what_leads_back_to_itself_is_refused(own: bool, folder: Path) -> None:
    other = "child.toml" if own else "other.toml"
    (folder / "other.toml").write_text(CHILD.replace("plain.toml", "child.toml"))
    with pytest.raises(InputError, match=r"extends: .*leads back to itself") as caught:
        load_target(child(folder, CHILD.replace("plain.toml", other)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("base", "kind"), [("no-such-target", "unknown target"), ("gone.toml", "No such file")])
def test_what_is_extended_has_to_be_there(base: str, kind: str, folder: Path) -> None:
    with pytest.raises(InputError, match=kind):
        load_target(child(folder, CHILD.replace("plain.toml", base)))


def test_a_word_lists_what_it_is_part_of() -> None:
    assert set(find_targets("server")) >= {"server-cpu", "server-cpu-avx2"}
    assert find_targets("server-cpu") == ["server-cpu"]
    with pytest.raises(UsageError, match="did you mean 'server-cpu' or 'server-cpu-avx2'") as caught:
        load_target("server")
    assert "\n" not in str(caught.value)


def test_no_suggestion_where_nothing_is_alike() -> None:
    with pytest.raises(UsageError) as caught:
        load_target("quantum")
    assert "did you mean" not in str(caught.value)


def test_aliases_name_one_target_each() -> None:
    names = [name.lower() for target in map(load_target, target_names()) for name in (target.name, *target.aliases)]
    assert len(names) == len(set(names))
    for target in map(load_target, target_names()):
        for alias in target.aliases:
            assert load_target(alias).name == target.name


def test_a_package_adds_targets(tmp_path: Path, plain: str) -> None:
    distribution(tmp_path, "boards", "", {TARGETS: "boards = shelf_of_boards"})
    package = tmp_path / "shelf_of_boards"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "my-board.toml").write_text(plain.replace('name = "plain"', 'name = "my-board"'))
    done = python(tmp_path, "-m", "hwpass", "targets", "my-board")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "my-board" in done.stdout


def test_a_package_without_targets_is_named(tmp_path: Path) -> None:
    distribution(tmp_path, "boards", "", {TARGETS: "boards = json"})
    done = python(tmp_path, "-m", "hwpass", "targets")
    assert done.returncode == 0
    assert "package json has no target files" in done.stderr


def test_a_variant_is_priced_in_another_format() -> None:
    target = load_target("mobile-cpu")
    assert target.variant() is target
    assert target.variant(dtype="int8", threads=4).dtype == "int8"
    with pytest.raises(UsageError, match="server-cpu has figures for fp32, int8"):
        load_target("server-cpu").variant(dtype="fp16")


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ("[limits]\nsram = 5\n", "limits.sram: no such key; expected one of ram_bytes"),
        ("[limits]\nram_bytes = -5\n", "limits.ram_bytes: .*greater than 0"),
        ("[fallback]\nruns = ['Conv']\n", "fallback.host: missing"),
        ("[footprint]\nweights = 'tape'\n", "footprint.weights: .*'ram' or 'flash'"),
        ("[uncertainty]\nconv = -1\n", "uncertainty.conv"),
    ],
)
def test_new_tables_are_checked(added: str, message: str, plain: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_target(plain.replace("[sources]", f"{added}[sources]", 1))
