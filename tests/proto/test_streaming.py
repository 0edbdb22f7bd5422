"""Models written weight by weight are the models that a protobuf would have been."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from sketch import Sketch

import hwpass
from hwpass.model.model import Model
from hwpass.proto.streaming import LARGE, large_constants, write_single

FIXTURES = sorted((Path(__file__).parents[2] / "fixtures").glob("*.onnx"))


def _written(model: hwpass.Model) -> bytes:
    stream = io.BytesIO()
    write_single(model.written(), large_constants(model.constants()), stream)
    return stream.getvalue()


@pytest.mark.parametrize("path", FIXTURES, ids=lambda p: p.stem)
def test_same_model_as_the_protobuf(path: Path) -> None:
    model = hwpass.load(path)
    written = onnx.load_from_string(_written(model))
    onnx.checker.check_model(written, full_check=True)
    wanted = model.proto()
    assert {t.name: t for t in written.graph.initializer} == {t.name: t for t in wanted.graph.initializer}
    del written.graph.initializer[:], wanted.graph.initializer[:]
    # A file also has the shapes of inner tensors, which are inferred once it is written.
    inner = {n for node in wanted.graph.node for n in node.output} - {v.name for v in wanted.graph.output}
    assert {value.name for value in written.graph.value_info} == inner
    del written.graph.value_info[:], wanted.graph.value_info[:]
    assert written == wanted


def test_same_bytes_twice_and_in_a_file(tmp_path: Path) -> None:
    model = hwpass.load(FIXTURES[0])
    model.save(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == _written(model) == _written(model)


@pytest.mark.parametrize("dtype", [np.float16, np.int8, np.bool_, np.float64, "bfloat16"])
def test_every_type_of_whole_bytes(dtype: Any) -> None:
    import ml_dtypes

    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    values = (np.arange(2 * LARGE) % 2).astype(kind).reshape(2, -1)
    x = gs.Variable("x", np.float32, [1])
    y = gs.Variable("y", kind, list(values.shape))
    node = gs.Node("Identity", "copy", inputs=[gs.Constant("w", values)], outputs=[y])
    model = hwpass.load(gs.export_onnx(gs.Graph([node], [x], [y], opset=17), do_type_check=False))
    again = onnx.load_from_string(_written(model))
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(again.graph.initializer[0]), values)


def test_copies_are_written_weight_by_weight_too() -> None:
    s = Sketch()
    s.output(s.linear(s.input(["N", 64]), 64, 64))
    model = Model.load(s.model())
    for again in (model, model.copy(), model.copy().copy()):
        assert again.written().ByteSize() < 64 * 64
        assert len(large_constants(again.constants())) == 1
