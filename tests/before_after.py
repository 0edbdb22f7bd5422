"""A small graph before and after a pipeline."""

from __future__ import annotations

import onnx
from oracle import difference, feeds_of, run
from sketch import Sketch

from hwpass.context import Context
from hwpass.manager import PassManager
from hwpass.model.model import Model


def applied(source: Sketch | onnx.ModelProto, text: str, context: Context | None = None) -> tuple[Model, bool]:
    """The model behind a pipeline, and whether its last pass changed anything; outputs must stay what they were."""
    proto = source.model() if isinstance(source, Sketch) else source
    manager = PassManager.parse(text)
    model = manager.run(Model.load(proto), context)
    return model, manager.records[-1].changed


def same_outputs(proto: onnx.ModelProto, model: Model) -> None:
    onnx.checker.check_model(model.proto(), full_check=True)
    feeds = feeds_of(proto, 0)
    for one, other in zip(run(proto, feeds), run(model.proto(), feeds), strict=True):
        assert max(difference(a, b) for a, b in zip(one, other, strict=True)) < 1e-5


def ops(model: Model) -> list[str]:
    return [node.op for node in model.nodes]
