"""Tables of embeddings as integers: rows are picked first and scaled then, and every way to get it wrong is seen."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from sketch import Sketch

from hwpass.context import Context
from hwpass.cost_models import load_target
from hwpass.formats import integers
from hwpass.formats.nearness import Near, Nearness
from hwpass.formats.tables import as_integers, tables
from hwpass.model.model import Model
from hwpass.passes.quantize import Quantize
from hwpass.runtime.sessions import open_session, run_session
from hwpass.verdicts.formats import OtherModel, same_but_for_formats
from hwpass.workflows.run import execute


def network(opset: int = 17, tied: bool = False) -> onnx.ModelProto:
    """Two lists of tokens through one table of 400 rows, and products behind it; `tied`: the table is a weight too."""
    s = Sketch(opset, seed=4)
    table = s.const(s.rng.standard_normal((400, 32)) * np.linspace(0.1, 3.0, 32), stem="table")
    ids = [s.input(["N", 6], name, TensorProto.INT64) for name in ("first", "second")]
    x = s.op("Add", *(s.op("Gather", table, each) for each in ids))
    x = s.op("Relu", s.linear(x, 32, 48))
    y = s.linear(x, 48, 32)
    s.output(s.op("MatMul", y, s.op("Transpose", table, perm=[1, 0])) if tied else s.linear(y, 32, 10))
    return s.model()


def tokens() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.integers(0, 400, (64, 6)) for name in ("first", "second")}


@pytest.mark.parametrize("per_channel", [True, False])
def test_rows_are_within_half_a_step_and_the_table_is_stored_once(per_channel: bool) -> None:
    proto = network()
    model = Model.load(proto)
    names = tables(model)
    assert len(names) == 2
    result = as_integers(model, names, per_channel=per_channel)
    onnx.checker.check_model(result.proto(), full_check=True)
    assert sum(t.data_type == TensorProto.INT8 and len(t.dims) == 2 for t in result.proto().graph.initializer) == 1
    assert result.size_bytes() < 0.65 * model.size_bytes()
    found = same_but_for_formats(model, result)
    assert found.weights == 2  # each reading is looked at
    one, other = (run_session(open_session(m.proto()), tokens()) for m in (model, result))
    for name, wanted in one.items():
        assert 0 < np.abs(other[name] - wanted).max() < 0.05 * np.abs(wanted).max()


@pytest.mark.parametrize("what", ["an entry", "a scale", "an axis", "indices", "a zero point"])
def test_a_mutation_is_seen(what: str) -> None:
    model = Model.load(network())
    result = as_integers(model, tables(model), per_channel=True)
    node = next(n for n in result.graph.nodes if n.op == "DequantizeLinear")
    gather = node.inputs[0].inputs[0]
    if what == "an entry":
        gather.inputs[0].values = np.where(
            np.arange(400)[:, None] == 7, -gather.inputs[0].values, gather.inputs[0].values
        )
    elif what == "a scale":
        node.inputs[1].values = node.inputs[1].values[::-1].copy()
    elif what == "an axis":
        node.attrs["axis"] = 1
    elif what == "indices":
        other = next(n for n in result.graph.nodes if n.op == "Gather" and n is not gather)
        gather.inputs[1] = other.inputs[1]
    else:
        node.inputs[2].values = node.inputs[2].values + np.int8(3)
    with pytest.raises(OtherModel):
        same_but_for_formats(model, result)


def test_a_table_that_something_else_reads_stays_and_so_does_one_that_is_kept() -> None:
    assert tables(Model.load(network(tied=True))) == []
    assert tables(Model.load(network()), keep=("Gather*",)) == []


@pytest.mark.parametrize("mode", ["static", "dynamic"])
@pytest.mark.parametrize("opset", [12, 17])
def test_the_pass_proves_it(mode: str, opset: int) -> None:
    pipeline = f"quantize{{mode={mode},max_error=-1}},verify"
    result = execute(network(opset), pipeline, target="server-cpu", calib=tokens())
    assert result.report.verdicts.exactness is not None
    legs = {leg.name: leg.state for leg in result.report.verdicts.exactness.legs}
    assert legs == {"preparation": "passed", "formats": "passed"}
    assert result.report.notes["quantize"]["tables on integers"] == 2
    assert result.model.size_bytes() < 0.4 * Model.load(network(opset)).size_bytes()


def test_a_table_that_loses_too_much_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Nearness, "of", lambda self, model, batches=None: Near(0.5, 1.0))
    model, settings = Model.load(network()), Context(target=load_target("server-cpu"), calibration=None)
    found = integers.on_integers(model, settings, Quantize(mode="dynamic", max_drop=0.1), None)
    assert found is None
    found = integers.on_integers(model, settings, Quantize(mode="dynamic", max_drop=0.6), None)
    assert found is not None
    assert found.note["tables on integers"] == 2
