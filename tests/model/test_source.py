"""What a model remembers of where it came from, and the check of a file before it gets its name."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
import pytest
from sketch import Sketch

import hwpass.model.model as ir
from hwpass.errors import VerdictError
from hwpass.model.model import Model


def small() -> onnx.ModelProto:
    s = Sketch()
    s.output(s.op("Relu", s.linear(s.input(["N", 40]), 40, 30)))
    return s.model()


def test_a_model_keeps_exactly_what_was_given(tmp_path: Path) -> None:
    proto = small()
    # An unknown field (number 2000): any new serialisation by way of another reader would drop or move it.
    data = b"\x82\x7d\x01z" + proto.SerializeToString()
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    assert Model.load(path).source == path
    assert Model.load(str(path)).source == path
    assert Model.load(data).source == data
    assert Model.load(io.BytesIO(data)).source == data
    assert Model.load(proto).source is proto
    assert Model.load(path).copy().source == path


def test_what_is_not_a_file_is_kept_as_bytes(tmp_path: Path) -> None:
    """A pipe can be read only once."""
    import os
    import threading

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    data = small().SerializeToString()
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    model = Model.load(pipe)
    writer.join()
    assert model.source == data


@pytest.mark.parametrize("limit", [1000, 1 << 30])
def test_the_check_sees_the_finished_file_before_it_has_its_name(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ir, "PROTO_LIMIT", limit)
    model, target, seen = Model.load(small()), tmp_path / "out.onnx", []

    def check(draft: Path) -> None:
        assert not target.exists()
        seen.append(onnx.load(draft))

    model.save(target, check)
    saved = onnx.load(target)
    assert seen == [saved]
    assert np.array_equal(onnx.numpy_helper.to_array(saved.graph.initializer[0]), model.nodes[0].inputs[1].values)


@pytest.mark.parametrize("limit", [1000, 1 << 30])
@pytest.mark.parametrize("before", [None, b"old"])
def test_a_file_that_fails_the_check_leaves_nothing(
    limit: int, before: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ir, "PROTO_LIMIT", limit)
    target = tmp_path / "out.onnx"
    if before is not None:
        target.write_bytes(before)

    def check(draft: Path) -> None:
        raise VerdictError("not what was meant")

    with pytest.raises(VerdictError, match="not what was meant"):
        Model.load(small()).save(target, check)
    assert (target.read_bytes() if target.exists() else None) == before
    assert [p.name for p in tmp_path.iterdir()] == ([] if before is None else ["out.onnx"])
