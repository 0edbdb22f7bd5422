"""Target files: the shipped ones, and what a wrong one is told."""

from __future__ import annotations

from collections.abc import Callable
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
    with pytest.raises(UsageError, match=r"unknown target 'sever-cpu': did you mean 'server-cpu'\?") as caught:
        load_target("sever-cpu")
    assert "hwpass targets" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.toml: .*No such file"):
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
    "zero rate": ("bandwidth_gbs = 1e12", "bandwidth_gbs = 0.0", r"memory\.cache\.bandwidth_gbs: .*greater than 0"),
    "negative rate": ("fp32 = 10", "fp32 = -10", r"peak\.fp32: .*greater than 0"),
    "infinite rate": ("fp32 = 10", "fp32 = inf", r"peak\.fp32: .*finite"),
    "huge rate": ("fp32 = 10", "fp32 = 1e300", r"peak\.fp32: .*less than or equal"),
    "rate of nearly nothing": ("fp32 = 10", "fp32 = 1e-20", r"peak\.fp32: expected at least 1e-15"),
    "huge constant": ("pack_ns = 0", "pack_ns = 1e200", r"constants\.pack_ns: .*less than or equal"),
    "huge step": ("align = 8", "align = 8000000", r"align: .*less than or equal"),
    "integer of 400 digits": ("fp32 = 10", "fp32 = " + "9" * 400, r"peak\.fp32: .*got a number of"),
    "integer of 5000 digits": ("fp32 = 10", "fp32 = " + "9" * 5000, "an integer of thousands of digits"),
    "unit in a text": ("fp32 = 10", 'fp32 = "10 GMAC/s"', r"peak\.fp32: .*valid number, got '10 GMAC/s'"),
    "unit in a key": ("bandwidth_gbs =", "bandwidth_gbps =", "bandwidth_gbps: no such key; did you mean bandwidth_gbs"),
    "no dtype": ("fp32 = 10\n", "", "peak: expected at least one dtype"),
    "date": ("overhead_us = 1", "overhead_us = 1979-05-27", "overhead_us: "),
    "table": ("overhead_us = 1", "overhead_us = {us = 1}", "overhead_us: .*got a table"),
    "brackets": ("overhead_us = 1", "overhead_us = " + "[" * 100_000, "nested too deeply"),
    "tables in tables": ("overhead_us = 1", "overhead_us = " + "{a=" * 60_000, "nested too deeply"),
    "key of 50,000 parts": ("align = 8", "align = 8\n" + "a." * 50_000 + "a = 1", "more than 32 parts .at line 7"),
    "long word": ("align = 8", 'align = 8\nx = "' + "y" * 200_000 + '"', "x: no such key"),
    "key twice": ("align = 8", "align = 8\nalign = 8", r"not valid TOML: .*line 7"),
    "key that is no word": ("align = 8", 'align = 8\n"a\\nb\\u001b[31m" = 1', r"a\\nb\\x1b\[31m: no such key"),
    "name of two lines": ('"plain"', '"a\\nb"', "name: expected printable characters on one line"),
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
    assert len(str(caught.value)) < 300


def test_a_byte_order_mark_is_no_part_of_a_target(tmp_path: Path, plain: str) -> None:
    (tmp_path / "mine.toml").write_text(plain, encoding="utf-8-sig")
    assert load_target(tmp_path / "mine.toml").name == "plain"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_bytes(b"#" * 10_000_000), "larger than 256 KiB"),
        (lambda path: path.write_text("", encoding="utf-16"), "not UTF-8 text"),
        (lambda path: path.symlink_to(path), "cannot be read"),
    ],
)
def test_what_is_no_target_file_is_an_input_error(make: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    make(path)
    with pytest.raises(InputError, match=message) as caught:
        load_target(str(path))
    assert "mine.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a\0b.toml", "x" * 5000 + ".toml"])
def test_what_is_no_name_of_a_file_is_an_input_error(name: str) -> None:
    with pytest.raises(InputError) as caught:
        load_target(name)
    assert len(str(caught.value)) < 400


def test_sources_cover_what_is_under_them(plain: str) -> None:
    target = parse_target(plain)
    assert target.source("memory.cache.bandwidth_gbs") == "test"
    with pytest.raises(KeyError):
        target.source("nothing")
