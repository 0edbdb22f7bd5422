"""Rows of embedding tables: they stay, or go where that is asked for, and what samples look up stays as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, numpy_helper
from oracle import run
from sketch import Sketch

import hwpass
from hwpass.command.cli import main
from hwpass.context import Context
from hwpass.manager import PassManager
from hwpass.model.model import Model
from hwpass.runtime.calibration import load_calibration
from hwpass.runtime.inputs import input_specs
from hwpass.surgery import vocabulary
from hwpass.surgery.vocabulary import nearest, spread_rows

ROWS, WIDTH = 3000, 16


def network(form: str = "") -> onnx.ModelProto:
    """Tokens [N, 12] through a table, a hidden layer of 48, and four outputs."""
    s = Sketch(seed=1)
    name = {"positions": "position_ids"}.get(form, "input_ids")
    ids = s.input(["N", 12], name=name, dtype=TensorProto.INT32 if form == "cast" else TensorProto.INT64)
    table = s.const(s.rng.normal(size=(40 if form == "small" else ROWS, WIDTH)), stem="table")
    if form == "cast":
        ids = s.op("Reshape", s.op("Cast", ids, to=TensorProto.INT64), s.const([0, 12]))
    if form == "computed":
        ids = s.op("Mod", ids, s.const(np.asarray(ROWS - 1)))
    x = s.op("Gather", table, ids)
    if form == "twice":
        x = s.op("Add", x, s.op("Gather", table, s.op("Identity", ids)))
    h = s.op("Relu", s.op("MatMul", x, s.weight(WIDTH, 48)))
    y = s.op("MatMul", h, s.weight(48, 4))
    if form == "tied":
        y = s.op("Reshape", s.op("MatMul", y, s.weight(4, WIDTH)), s.const([-1, WIDTH]))
        y = s.op("Gemm", y, table, transB=1)
    s.output(y)
    return s.model()


def tokens(count: int = 160, *, of: int = 1000, seed: int = 0, dtype: Any = np.int64) -> Any:
    """Samples that look up even rows from 500 on alone, and not all of them."""
    rng = np.random.default_rng(seed)
    return (500 + 2 * rng.integers(0, of, (count, 12))).astype(dtype)


def pruned(form: str = "", data: Any = None, **more: Any) -> hwpass.Result:
    name = "position_ids" if form == "positions" else "input_ids"
    given = {name: tokens(dtype=np.int32 if form == "cast" else np.int64) if data is None else data}
    asked: dict[str, Any] = {"macs": 0.7, "distill": "off", "compensate": "off", "prune_vocabulary": True}
    return hwpass.run(network(form), "mobile-cpu", calib=given, **{**asked, **more})


def outputs(model: onnx.ModelProto, ids: Any) -> Any:
    return run(model, [{"input_ids": ids}])[0][0]


@pytest.mark.parametrize("form", ["", "cast", "twice"])
def test_samples_give_what_they_gave_from_a_smaller_table(form: str) -> None:
    """The table of 3,000 rows of 64 bytes has those of the samples, and the first 256."""
    plain, found = (pruned(form, prune_vocabulary=wanted) for wanted in (False, True))
    dtype = np.int32 if form == "cast" else np.int64
    seen = tokens(dtype=dtype)
    assert np.array_equal(outputs(plain.model.proto(), seen), outputs(found.model.proto(), seen))
    kept = 256 + len(np.unique(seen))
    (told,) = found.report.notes["prune-vocabulary"].values()
    assert isinstance(told, dict)
    assert told["rows"] == f"{kept} of 3000"
    assert told["fall back on the nearest"] == 3000 - kept
    less = plain.model.size_bytes() - found.model.size_bytes()
    assert less == (3000 - kept) * 64 - 3000 * 4
    assert told["MB less"] == round(less / 1e6, 2)
    exactness = found.report.verdicts.exactness
    assert exactness is not None
    assert exactness.state == "passed"
    assert [leg.name for leg in exactness.legs] == ["preparation", "removal", "refit", "rewriting"]


def test_other_tokens_take_the_nearest_row() -> None:
    model = network()
    table = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name.startswith("table")))
    seen = np.unique(tokens())
    other = 257  # beyond the first rows, and odd
    cosines = table[seen] @ table[other] / np.linalg.norm(table[seen], axis=1)
    found = pruned().model.proto()
    given = (np.full((1, 12), number) for number in (other, int(seen[cosines.argmax()])))
    assert np.array_equal(*(outputs(found, ids) for ids in given))


def test_how_many_tokens_to_come_fall_back_is_told_by_the_samples_set_apart() -> None:
    data = tokens()
    learned, apart = (data[np.arange(160) % 8 != 7], data[7::8])
    (told,) = pruned().report.notes["prune-vocabulary"].values()
    assert isinstance(told, dict)
    assert told["of tokens to come fall back"] == f"{np.mean(~np.isin(apart, learned)):.2%}"


@pytest.mark.parametrize(
    ("form", "why"),
    [
        ("small", "less than 64 KiB would go"),
        ("tied", "no table is looked up by an input's token ids alone"),
        ("computed", "no table is looked up"),
        ("positions", "no table is looked up"),
    ],
)
def test_tables_that_stay(form: str, why: str) -> None:
    result = pruned(form, data=tokens() % 40 if form == "small" else None)
    assert "prune-vocabulary" not in result.report.notes
    assert any(why in text and "left the vocabulary as it is" in text for text in result.report.warnings)
    rows = 40 if form == "small" else ROWS
    assert any(tuple(tensor.shape[:1]) == (rows,) for tensor in result.model.constants().values())


def test_without_samples_or_a_cut_it_is_refused() -> None:
    with pytest.raises(hwpass.UsageError, match="prune_vocabulary keeps the tokens of samples: give some by calib"):
        hwpass.run(network(), "mobile-cpu", macs=0.7, prune_vocabulary=True)
    with pytest.raises(hwpass.UsageError, match="give some by calib"):
        hwpass.run(network(), "mobile-cpu", pipeline="prune-channels{macs=0.7x},prune-vocabulary,verify")
    with pytest.raises(hwpass.UsageError, match="goes after prune-channels"):
        hwpass.run(network(), "mobile-cpu", pipeline="prune-vocabulary,verify", calib={"input_ids": tokens()})
    with pytest.raises(hwpass.UsageError, match="first=-1: give 0 or more"):
        PassManager.parse("prune-vocabulary{first=-1}")


def test_a_second_run_changes_nothing() -> None:
    model = Model.load(network())
    context = Context(target=hwpass.cost_models.load_target("mobile-cpu"))
    context.calibration = load_calibration({"input_ids": tokens()}, input_specs(network()))
    text = "prune-channels{macs=0.7x,score=l2},prune-vocabulary,prune-vocabulary,share-rows,share-rows"
    manager = PassManager.parse(text)
    manager.run(model, context)
    assert [record.changed for record in manager.records[1:]] == [True, False, True, False]


def test_the_first_rows_stay_as_many_as_are_asked_for() -> None:
    result = pruned(
        macs=None, prune_vocabulary=False,
        pipeline="prune-channels{macs=0.7x},prune-vocabulary{first=0},share-rows,verify",
    )  # fmt: skip
    (told,) = result.report.notes["prune-vocabulary"].values()
    assert isinstance(told, dict)
    assert told["rows"] == f"{len(np.unique(tokens()))} of 3000"


def test_many_rows_are_compared_by_projections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows in pairs that nearly equal each other find their fellows in 16 of 64 directions too."""
    monkeypatch.setattr(vocabulary, "WORK", 1.0)
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.normal(size=(200, 64)), 2, axis=0) + rng.normal(0, 1e-3, (400, 64))
    kept = np.arange(400) % 2 == 0
    assert np.array_equal(nearest(rows, kept, kept), np.arange(400) // 2 * 2)


def test_shared_rows_are_spread_again() -> None:
    s = Sketch()
    values = np.repeat(s.rng.normal(size=(300, 32)).astype(np.float32), 5, axis=0)
    values[3, 0] = -0.0
    s.output(s.op("Gather", s.const(values, stem="table"), s.input(["N", 4], name="ids", dtype=TensorProto.INT64)))
    model = Model.load(s.model())
    shared = PassManager.parse("share-rows").run(model)
    assert sorted(tuple(t.shape) for t in shared.constants().values()) == [(301, 32), (1500,)]
    ids = np.asarray([[0, 3, 1499, -1]])
    for one in (shared, spread_rows(shared)):
        assert np.array_equal(run(one.proto(), [{"ids": ids}])[0][0], values[ids])
    (table,) = spread_rows(shared).constants().values()
    assert np.array_equal(table.values, values)


def test_verify_and_apply(tmp_path: Path) -> None:
    model, data, plan = tmp_path / "m.onnx", tmp_path / "x.npz", tmp_path / "p.json"
    model.write_bytes(network().SerializeToString())
    np.savez(data, input_ids=tokens())
    small, again = tmp_path / "s.onnx", tmp_path / "again.onnx"
    more = ["--calib", str(data), "--distill", "off", "--prune-vocabulary"]
    for words in (
        ["run", str(model), "--target", "mobile-cpu", "--macs", "0.7x", "-o", str(small), "--plan", str(plan), *more],
        ["apply", str(plan), str(model), "-o", str(again), *more],
        ["verify", str(model), str(small), "--plan", str(plan)],
    ):
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 0, done.output
        assert "exactness passed" in done.output
    assert again.stat().st_size == small.stat().st_size < 0.7 * model.stat().st_size
    assert json.loads(plan.read_text(encoding="utf-8"))


@pytest.mark.parametrize("form", ["ids", "rows", "classes"])
def test_without_the_option_symbols_stay(form: str) -> None:
    """Rows of a table, the symbols of a one-hot input, and those that ids are made one-hot into, are no channels."""
    s = Sketch(seed=2)
    if form == "rows":
        x = s.op("MatMul", s.input(["N", 12, 60], name="x"), s.weight(60, WIDTH))
    else:
        ids = s.input(["N", 12], name="ids", dtype=TensorProto.INT64)
        x = s.op("Gather", s.weight(60, WIDTH), ids)
        if form == "classes":
            hot = s.op("OneHot", ids, s.const(np.asarray(60)), s.const(np.asarray([0.0, 1.0])))
            x = s.op("MatMul", hot, s.weight(60, WIDTH))
    s.output(s.op("MatMul", s.op("Relu", s.op("MatMul", x, s.weight(WIDTH, 48))), s.weight(48, 4)))
    result = hwpass.run(s.model(), "mobile-cpu", macs=0.5, distill="off")
    shapes = [tuple(t.shape) for t in result.model.constants().values() if len(t.shape) == 2]
    assert shapes[0][0] == 60
    assert sum(map(np.prod, shapes)) < 60 * WIDTH + WIDTH * 48 + 48 * 4
