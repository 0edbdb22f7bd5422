"""What holds of every pass there is: texts of small graphs, determinism, idempotence, one definition of options."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from examples_of_passes import EXAMPLES, GOLDEN
from oracle import difference, feeds_of, run

from hwpass import pipeline_toml
from hwpass.command.cli import main
from hwpass.errors import InputError
from hwpass.manager import Pass, PassManager, passes
from hwpass.model.model import Model
from hwpass.reporting.listing import pass_options

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "passes.md").read_text(encoding="utf-8")
#: Passes whose result depends on the clock.
TIMED = {"distill"}
NAMES = sorted(passes())
EXACT = sorted(name for name, cls in passes().items() if cls.effect == "exact")


def serialised(model: Model) -> bytes:
    return bytes(model.proto().SerializeToString(deterministic=True))


def there(name: str) -> None:
    if not EXAMPLES[name].installed:
        pytest.skip(f"{EXAMPLES[name].needs} is not installed")


def test_every_pass_has_an_example_and_no_text_is_left_over() -> None:
    assert sorted(EXAMPLES) == NAMES
    assert sorted(path.stem for path in GOLDEN.iterdir()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_what_a_pass_makes_of_a_small_graph(name: str) -> None:
    """`python tests/examples_of_passes.py` writes the texts again."""
    there(name)
    assert EXAMPLES[name].text() == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name in NAMES if passes()[name].effect != "none"])
def test_an_example_is_changed(name: str) -> None:
    there(name)
    before, after, changed = EXAMPLES[name].run()
    assert changed
    assert serialised(before) != serialised(after)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in TIMED])
def test_two_runs_give_the_same_bytes(name: str) -> None:
    assert serialised(EXAMPLES[name].run()[1]) == serialised(EXAMPLES[name].run()[1])


@pytest.mark.parametrize("name", [name for name in NAMES if name not in {*TIMED, "apply-plan"}])
def test_a_second_time_changes_nothing(name: str) -> None:
    """A plan is of one model; that one which keeps everything changes nothing is in `test_passes`."""
    example = EXAMPLES[name]
    proto = example.model()
    context = example.context(proto)
    once = PassManager.parse(example.pipeline).run(Model.load(proto), context)
    twice, changed = example.again(once, context)
    assert not changed
    assert serialised(twice) == serialised(once)


def test_a_plan_of_another_model_is_refused_and_leaves_the_model() -> None:
    example = EXAMPLES["apply-plan"]
    proto = example.model()
    context = example.context(proto)
    once = PassManager.parse(example.pipeline).run(Model.load(proto), context)
    bytes_before = serialised(once)
    with pytest.raises(InputError, match="the plan's group Conv_conv3 has 32 channels, the model's has 16"):
        example.again(once, context)
    assert serialised(once) == bytes_before


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_pass_keeps_the_outputs_of_its_example(name: str) -> None:
    before, after, _ = EXAMPLES[name].run()
    feeds = feeds_of(EXAMPLES[name].model(), 0)
    if any(entry.type.tensor_type.elem_type != onnx.TensorProto.FLOAT for entry in EXAMPLES[name].model().graph.input):
        feeds = [{key: np.abs(value).astype(np.int64) for key, value in feed.items()} for feed in feeds]
    for one, other in zip(run(before.proto(), feeds), run(after.proto(), feeds), strict=True):
        assert max(difference(a, b) for a, b in zip(one, other, strict=True)) < 1e-5


# --- one definition of an option


#: Values to try by the type of an option, of which one is likely to be taken.
VALUES: dict[Any, tuple[Any, ...]] = {
    bool: (True, False),
    int: (1, 2, 5),
    float: (0.25, 0.5, 1.0),
    str: ("0.5x", "2:4", "a"),
    tuple[str, ...]: (("a*", "b"), ("cosine>=0.9",)),
}


def settings(cls: type[Pass]) -> Iterator[dict[str, Any]]:
    """Options of a pass, each with a value other than its default that the pass takes by itself."""
    types = get_type_hints(cls)
    for item in dataclasses.fields(cls):
        choices = item.metadata.get("choices")
        values = VALUES.get(types[item.name], ())
        tried = values if choices is None else [choice for choice, _ in choices()]
        for value in tried:
            if value == item.default:
                continue
            try:
                cls(**{item.name: value})
            except Exception:
                continue
            yield {item.name: value}
            break


@pytest.mark.parametrize("name", NAMES)
def test_options_are_one_definition_in_text_file_and_python(name: str) -> None:
    cls = passes()[name]
    tried = list(settings(cls))
    assert len(tried) >= 0.5 * len(dataclasses.fields(cls))
    for options in tried:
        step = cls(**options)
        assert PassManager.parse(str(step)).steps == (step,)
        read = tomllib.loads(pipeline_toml.written([step]))["pipeline"]
        assert pipeline_toml.read(read, passes()) == [step]


@pytest.mark.parametrize("name", NAMES)
def test_options_are_listed_and_documented_with_their_help(name: str) -> None:
    cls = passes()[name]
    section = PAGE.split(f"\n## {name}\n")[1].split("\n## ")[0]
    assert cls.__doc__
    assert cls.__doc__.splitlines()[0] in section
    printed = CliRunner().invoke(main, ["passes"], env={"COLUMNS": "400"}).stdout
    entry = printed.split(f"{name}\n")[1]
    told = {option.name: option.help for option in pass_options(cls)}
    assert set(told) == {item.name.replace("_", "-") for item in dataclasses.fields(cls)}
    for item in dataclasses.fields(cls):
        option = item.name.replace("_", "-")
        assert item.metadata["help"], option
        assert f"| `{option}` |" in section
        assert f"  {option}: {told[option]}" in entry
