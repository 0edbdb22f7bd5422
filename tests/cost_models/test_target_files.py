"""Target files: the shipped ones, and what a wrong one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwpass.cost_models import cost_model, load_target, model_names, parse_target, target_names
from hwpass.errors import InputError, UsageError


@pytest.mark.parametrize("name", target_names())
def test_shipped_targets_load_and_source_every_figure(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert cost_model(target).target is target
    for key in ("overhead_us", "fusion", "align", *(f"peak.{d}" for d in target.peak)):
        assert target.source(key)
    for level in target.memory:
        assert target.source(f"memory.{level}.bandwidth_gbs")


def test_the_required_targets_are_there() -> None:
    assert {"server-cpu", "mobile-cpu"} <= set(target_names())
    assert "CachedSimdCpu" in model_names()


def test_a_file_loads_like_a_name(tmp_path: Path, plain: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(plain)
    assert load_target(str(path)).name == "plain"


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(
        UsageError, match=r"unknown target 'sever-cpu': did you mean 'server-cpu'\?"
    ) as caught:
        load_target("sever-cpu")
    assert "hwpass targets" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.toml: No such file"):
        load_target(str(tmp_path / "nowhere.toml"))


def test_a_binary_file_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        load_target(str(tmp_path / "bad.toml"))


CASES = {
    "syntax": ("overhead_us = 1", "overhead_us =", r"not valid TOML: .*line 7"),
    "missing": ("overhead_us = 1\n", "", "overhead_us: missing"),
    "unknown": ("align = 8", "align = 8\nspeed = 3", "speed: no such key"),
    "type": ("align = 8", 'align = "8"', r"align: .*valid integer, got '8'"),
    "negative": ("overhead_us = 1", "overhead_us = -1", "overhead_us: .*greater than or equal to 0"),
    "nan": ("overhead_us = 1", "overhead_us = nan", "overhead_us"),
    "dtype": ("fp32 = 10", "fp99 = 10", r"peak\.fp99: expected a dtype of fp32, fp16, int8"),
    "energy dtype": (
        "[energy.mac_pj]\nfp32",
        "[energy.mac_pj]\nbf16",
        r"energy\.mac_pj\.bf16: expected a dtype",
    ),
    "zero peak": ("fp32 = 10", "fp32 = 0", r"peak\.fp32"),
    "source": ('overhead_us = "test"\n', "", r"sources\.overhead_us: missing"),
    "stray source": (
        'peak = "test"',
        'peak = "test"\nspeed = "test"',
        r"sources\.speed: there is no such figure",
    ),
    "empty source": ('peak = "test"', 'peak = ""', r"sources\.peak: expected a text"),
    "last level": ("[memory.dram]", "[memory.dram]\ncapacity_kib = 9999", r"memory\.dram\.capacity_kib"),
    "order": ("capacity_kib = 1024\n", "", r"memory\.cache\.capacity_kib: expected more"),
    "chain": ('[["Conv", "Relu"]]', '[["Conv"]]', r"fusion\.0: expected a chain of at least two"),
    "constant": ("winograd = 1\n", "", r"constants\.winograd: missing"),
    "layout": ("block = 8", "block = 8\nblocks = 8", r"layout\.blocks: no such key"),
    "range": ("recurrent = 0.5", "recurrent = 2", r"constants\.recurrent: .*got 2"),
    "model": ("CachedSimdCpu", "Abacus", r"model: expected one of .*CachedSimdCpu.*, got 'Abacus'"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_malformed_file_names_the_key(case: str, plain: str) -> None:
    before, after, message = CASES[case]
    assert before in plain
    with pytest.raises(InputError, match=message) as caught:
        cost_model(parse_target(plain.replace(before, after, 1), "mine.toml"))
    assert "\n" not in str(caught.value)


def test_sources_cover_what_is_under_them(plain: str) -> None:
    target = parse_target(plain)
    assert target.source("memory.cache.bandwidth_gbs") == "test"
    with pytest.raises(KeyError):
        target.source("nothing")
