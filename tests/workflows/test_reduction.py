"""The least that fails: of passes and of graphs; and bundles that are read with care."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sketch import Sketch

from hwpass.cost_models import load_target, target_names
from hwpass.errors import InputError, UsageError
from hwpass.manager import Pass, PassManager
from hwpass.proto.subgraph import Parts
from hwpass.workflows.bundle import Bundle, read_bundle, write_bundle
from hwpass.workflows.failures import Failure, Setting
from hwpass.workflows.reduction import Deadline, fewer_steps, smallest_part
from hwpass.workflows.replay import replay


def chain(length: int) -> onnx.ModelProto:
    s = Sketch()
    x = s.input([2])
    for _ in range(length):
        x = s.op("Abs", x)
    s.output(x)
    return s.model()


@given(st.integers(2, 40), st.sets(st.integers(0, 39), min_size=1, max_size=3))
def test_the_smallest_part_has_the_nodes_that_matter_and_no_others(length: int, places: set[int]) -> None:
    model = chain(length)
    names = [node.name for node in model.graph.node]
    needed = {names[place % length] for place in places}
    asked: list[int] = []

    def fails(part: onnx.ModelProto) -> bool:
        asked.append(len(part.graph.node))
        return needed <= {node.name for node in part.graph.node}

    found = smallest_part(Parts(model), fails, Deadline())
    kept = {node.name for node in (model if found is None else found).graph.node}
    assert kept == needed
    assert len(asked) == len(set(asked)) or len(asked) < 40 * length


def test_a_deadline_takes_what_there_is() -> None:
    assert smallest_part(Parts(chain(8)), lambda part: True, Deadline(0.0)) is None
    steps = PassManager.parse("fold,fuse-bn").steps
    assert fewer_steps(steps, lambda some: True, Deadline(0.0)) == steps


def test_fewer_steps_have_those_that_matter_with_plain_options() -> None:
    steps = PassManager.parse("fold{limit=7},fuse-bn,prune-channels{macs=0.5x,align=4},compensate{rows=9}").steps

    def fails(some: Sequence[Pass]) -> bool:
        return [step.name for step in some if step.name in ("fold", "prune-channels")] == ["fold", "prune-channels"]

    found = fewer_steps(steps, fails, Deadline())
    assert str(PassManager(found)) == "fold,prune-channels{channels=0.5x,score=l2}"

    def particular(some: Sequence[Pass]) -> bool:
        return fails(some) and any("limit=7" in str(step) for step in some)

    assert str(PassManager(fewer_steps(steps, particular, Deadline()))).startswith("fold{limit=7},")


def written(folder: Path, setting: Setting, pipeline: str = "fold") -> Path:
    failure = Failure("fold", "KeyError", "hwpass.nowhere.f", "no such thing")
    given: dict[str, str | int] = {"path": "a.onnx", "sha256": "0" * 64, "nodes": 40}
    return write_bundle(folder, chain(2), pipeline, setting, failure, given, True)


@pytest.mark.parametrize("name", sorted(target_names()))
def test_a_bundle_is_read_as_it_was_written(name: str, tmp_path: Path) -> None:
    feed = {"an input/with: any name": np.arange(6, dtype=np.float32).reshape(3, 2)}
    setting = Setting(load_target(name), seed=7, threads=2, dims={"N": 3}, feed=feed, rtol=1e-3)
    facts, model, found = read_bundle(written(tmp_path / "less", setting))
    assert onnx.load(model) == chain(2)
    assert (found.seed, found.threads, found.dims, found.rtol) == (7, 2, {"N": 3}, 1e-3)
    assert found.target == setting.target
    assert found.feed is not None
    assert {key: value.tolist() for key, value in found.feed.items()} == {k: v.tolist() for k, v in feed.items()}
    assert (facts.nodes, facts.model_nodes, facts.failure.message) == (2, 40, "no such thing")


def test_a_bundle_takes_no_name_that_is_taken_and_appears_whole(tmp_path: Path) -> None:
    places = [written(tmp_path / "sub" / "less", Setting()) for _ in range(3)]
    assert [place.name for place in places] == ["less", "less-2", "less-3"]
    assert sorted(path.name for path in (tmp_path / "sub").iterdir()) == ["less", "less-2", "less-3"]
    assert "hwpass replay less" in (places[0] / "README.txt").read_text()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="the reproducer cannot be written"):
        written(tmp_path / "file" / "sub", Setting())


def test_what_is_no_bundle_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder; name the folder that"):
        replay(tmp_path / "nothing")
    place = written(tmp_path / "less", Setting(feed={"x1": np.zeros((1, 2), np.float32)}))
    (place / "inputs.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"inputs\.npz cannot be read"):
        replay(place)
    facts = json.loads((place / "bundle.json").read_text())
    (place / "bundle.json").write_text(json.dumps({**facts, "seed": "many"}))
    with pytest.raises(InputError, match=r"bundle\.json is no description of a reproducer: seed"):
        replay(place)
    (place / "bundle.json").write_text("{")
    with pytest.raises(InputError, match=r"bundle\.json is no description of a reproducer"):
        replay(place)
    with pytest.raises(UsageError, match="there is no pass 'nowhere'"):
        replay(written(tmp_path / "less", Setting(), "nowhere"))


def test_every_fact_of_a_bundle_is_in_its_schema() -> None:
    assert Bundle.model_json_schema()["properties"].keys() >= {"schema", "pipeline", "failure", "versions", "seed"}
