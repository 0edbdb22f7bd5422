"""`hwpass verify --plan` notices whatever is done to a pruned model after it was proved."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner
from faults import SUBJECTS
from tampering import TAMPERINGS, Tampering

import hwpass
from hwpass.command.cli import main
from hwpass.planning.plan import Plan

CASES = [(entry, subject) for entry in TAMPERINGS for subject in entry.subjects]
USED = sorted({subject for _, subject in CASES})


@cache
def written(name: str) -> tuple[bytes, bytes, str]:
    """The original, what hwpass made of it, and the plan."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder) / "given.onnx", Path(folder) / "result.onnx"
        source.write_bytes(SUBJECTS[name].make().SerializeToString())
        found: hwpass.Result = SUBJECTS[name].run(source)
        found.save(result)
        assert found.plan is not None
        return source.read_bytes(), result.read_bytes(), found.plan.to_json()


def verified(folder: Path, original: bytes, pruned: bytes, plan: str) -> tuple[int, str]:
    """The status and the words of `hwpass verify`."""
    for name, data in (("original.onnx", original), ("pruned.onnx", pruned), ("plan.json", plan.encode())):
        (folder / name).write_bytes(data)
    paths = [str(folder / name) for name in ("original.onnx", "pruned.onnx", "plan.json")]
    ended = CliRunner().invoke(main, ["verify", *paths[:2], "--plan", paths[2]])
    return ended.exit_code, ended.output


@pytest.mark.parametrize("name", USED)
def test_what_hwpass_wrote_is_proved_again(name: str, tmp_path: Path) -> None:
    status, words = verified(tmp_path, *written(name))
    assert status == 0, words
    assert "exactness passed" in words


@pytest.mark.parametrize(("entry", "name"), CASES, ids=[f"{entry.says}-{name}" for entry, name in CASES])
def test_a_tampered_model_or_plan_is_not_proved(entry: Tampering, name: str, tmp_path: Path) -> None:
    original, pruned, text = written(name)
    model, plan = onnx.load_from_string(pruned), Plan.from_json(text)
    entry.change(model, plan)
    changed = model.SerializeToString(), plan.to_json()
    assert changed != (onnx.load_from_string(pruned).SerializeToString(), text)
    status, words = verified(tmp_path, original, *changed)
    assert status == entry.status, words


def test_other_files_in_the_place_of_the_pruned_one_are_not_proved(tmp_path: Path) -> None:
    original, pruned, plan = written("conv")
    assert verified(tmp_path, original, original, plan)[0] == 5
    assert verified(tmp_path, original, written("refit_conv")[1], plan)[0] in (0, 5)
    assert verified(tmp_path, original, pruned[:-200], plan)[0] == 3
    assert verified(tmp_path, written("gemm")[0], pruned, plan)[0] == 3
