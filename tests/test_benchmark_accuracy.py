"""The search and the records of benchmarks/accuracy.py: the figures it publishes rest on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import onnx
import pytest
from onnx import TensorProto, helper

from hwpass.cost.bench import Timing

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import latency_search

    monkeypatch.setattr(latency_search, "check_runs", lambda model: None)
    return latency_search


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import accuracy_rows

    return accuracy_rows


def model_of_width(width: int) -> onnx.ModelProto:
    """One product whose weight is [4, width]."""
    node = helper.make_node("MatMul", ["image", "w"], ["logits"])
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4, width], [0.0] * 4 * width)
    return helper.make_model(helper.make_graph([node], "g", [], [], [weight]))


class Maker:
    """Sixteen channels, of which the setting's share goes; it refuses to remove more than `most`."""

    def __init__(self, search: ModuleType, most: float = 1.0) -> None:
        self.search, self.most = search, most
        self.finals: list[float] = []

    def draft(self, setting: float) -> object:
        if setting > self.most:
            raise self.search.Refusal("too much")
        return self.search.Pruned(model_of_width(16 - int(16 * setting)))

    def final(self, setting: float) -> object:
        self.finals.append(setting)
        return self.draft(setting)


class Clock:
    """Latencies by width; finals may turn out otherwise than drafts."""

    def __init__(self, draft: Callable[[int], float], final: Callable[[int], float] | None = None) -> None:
        self.draft, self.final = draft, final or draft
        self.timed: list[int] = []

    def drafts(self, dense: Path, models: Sequence[onnx.ModelProto]) -> list[Timing]:
        widths = [model.graph.initializer[0].dims[1] for model in models]
        self.timed += widths
        return [Timing("", 1, 1, 1, ratio=self.draft(width)) for width in widths]

    def finals(self, dense: Path, models: Sequence[onnx.ModelProto]) -> list[Timing]:
        return [Timing("", 1, 1, 1, ratio=self.final(model.graph.initializer[0].dims[1])) for model in models]


def widths(found: dict[float, object]) -> dict[float, int]:
    return {p: one.pruned.model.graph.initializer[0].dims[1] for p, one in found.items()}  # type: ignore[attr-defined]


def run(search: ModuleType, maker: Maker, clock: Clock, points: list[float], grid: list[float]) -> dict[float, object]:
    found, why = search.search(Path("dense.onnx"), maker, points, grid, clock, lambda text: None)
    assert why
    return found  # type: ignore[no-any-return]


def test_the_least_pruned_model_within_the_point_is_found_between_the_grid(search: ModuleType) -> None:
    found = run(search, Maker(search), Clock(lambda width: width / 16), [0.75, 0.5], [0.1, 0.45, 0.9])
    assert widths(found) == {0.75: 12, 0.5: 8}


def test_nothing_is_looked_for_between_a_point_and_a_draft_near_it(search: ModuleType) -> None:
    for point, timed in ((0.51, {15, 8}), (0.6, {15, 8, 9, 10})):
        clock = Clock(lambda width: width / 16)
        run(search, Maker(search), clock, [point], [0.1, 0.5])
        assert set(clock.timed) == timed


def test_a_narrower_model_that_is_slower_is_passed_over(search: ModuleType) -> None:
    slow = Clock(lambda width: 0.9 if width in (6, 7) else width / 16)
    found = run(search, Maker(search), slow, [0.48], [0.5, 0.5625, 0.625, 0.6875])
    assert widths(found) == {0.48: 5}  # width 8 is over the point; 7 and 6 are slower than they should be


def test_a_narrower_model_that_was_disturbed_is_timed_again(search: ModuleType) -> None:
    seen: list[int] = []

    def disturbed(width: int) -> float:
        seen.append(width)
        return 0.9 if width == 8 and seen.count(8) == 1 else width / 16

    found = run(search, Maker(search), Clock(disturbed, lambda width: width / 16), [0.5], [0.375, 0.5, 0.625])
    assert widths(found) == {0.5: 8}
    assert seen.count(8) == 2


def test_a_draft_that_does_not_hold_gives_way_to_its_neighbour(search: ModuleType) -> None:
    maker = Maker(search)
    found = run(search, maker, Clock(lambda w: w / 16, lambda w: w / 16 + 0.01), [0.5], [0.5, 0.9])
    assert widths(found) == {0.5: 7}  # not in the grid, nor looked for before the final timing of 8
    assert len(maker.finals) == 2


def test_equal_structures_are_timed_once(search: ModuleType) -> None:
    clock = Clock(lambda width: width / 16)
    run(search, Maker(search), clock, [0.5], [0.5, 0.51, 0.52])
    assert sorted(clock.timed) == sorted(set(clock.timed))


def test_a_point_out_of_reach_says_why(search: ModuleType) -> None:
    clock, maker = Clock(lambda width: width / 16), Maker(search, 0.5)
    found, why = search.search(Path("dense.onnx"), maker, [0.2], [0.25, 0.5, 0.75], clock, lambda text: None)
    assert found == {}
    assert why == "no faster than 0.50x; too much"


def test_the_edge_of_what_is_refused_is_looked_for(search: ModuleType) -> None:
    maker = Maker(search, 0.7)
    found = run(search, maker, Clock(lambda width: width / 16), [0.35], [0.25, 0.5, 0.9])
    assert widths(found) == {0.35: 5}  # 0.6875 of the channels; between 0.5 and the refusal at 0.9


def test_the_clock_compares_the_fastest_runs(search: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, dense, later = (Timing("dense", 8, 4, 9, quick_ms=ms) for ms in (4, 6, 5))
    pruned, disturbed = (Timing("pruned", 3, 1, 6, 0.5, 0.2, 0.9, quick_ms=ms) for ms in (1, 3))
    answers = iter([[alone], [dense, pruned], [later, disturbed]])
    monkeypatch.setattr(search, "bench", lambda *_, **__: next(answers))
    clock = search.Clock()
    for timed in (clock.drafts, clock.finals):
        (found,) = timed(Path("dense.onnx"), [model_of_width(4)])
        assert (found.ratio, found.quick_ms, found.ratio_low, found.ratio_high) == (0.25, 1, 0.2, 0.9)


def row(**values: object) -> dict[str, object]:
    plain = {"network": "n", "model": "1", "kind": "method", "method": "hwpass", "point": 0.5, "dense": 0.9}
    return {**plain, "accuracy": 0.8, "latency": 0.49, **values}


def test_rows_outlive_the_run_and_can_be_forgotten(rows: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    first = rows.Rows(path)
    first.add(row())
    first.add(row(method="peer"))
    key = {"network": "n", "model": "1", "kind": "method"}
    assert rows.Rows(path).missing([0.5, 0.33], **key, method="hwpass") == [0.33]
    assert rows.Rows(path).missing([0.5], **{**key, "model": "2"}, method="hwpass") == [0.5]
    again = rows.Rows(path, ["hwp*"])
    assert again.missing([0.5], **key, method="hwpass") == [0.5]
    assert rows.Rows(path).missing([0.5], **key, method="peer") == []


def test_missed_goals_are_listed(rows: ModuleType, tmp_path: Path) -> None:
    found = rows.Rows(tmp_path / "rows.jsonl")
    found.add(row())
    found.add(row(method="peer", accuracy=0.85))
    found.add(row(method="other", accuracy=None, error="it fails"))
    text = rows.tables(found, {"n": "1"})
    assert "n at 0.5x: peer is not below hwpass, 0.8500 to 0.8000" in text
    assert "n at 0.5x: loses 10.00 points, the goal is 1" in text
    assert "n, other, 0.5x: it fails" in text
    assert "| other | not met |" in text
    assert "hwpass" not in rows.tables(found, {"n": "2"})
