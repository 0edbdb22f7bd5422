"""The rooms of the code: everything stands in one, and imports only what stands before it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))

import rooms  # noqa: E402


def test_every_module_has_a_room_and_every_room_modules() -> None:
    found = {rooms.room_of(name) for name in rooms.modules() if name not in rooms.FACES}
    assert found == set(rooms.ROOMS)


def test_no_import_runs_up() -> None:
    assert rooms.upward() == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert rooms.circles() == []


@pytest.mark.parametrize(
    ("module", "line", "goal", "said"),
    [
        ("hwpass/ops/axes.py", "def f(): from hwpass.coupling.walk import Builder", "hwpass/coupling/walk.py",
         "hwpass.ops.axes (ops) imports hwpass.coupling.walk (coupling), which stands above"),
        ("hwpass/errors.py", "if TYPE_CHECKING: from hwpass.cost import kernels", "hwpass/cost/kernels.py",
         "hwpass.errors (ground) imports hwpass.cost.kernels (cost), which stands above"),
        ("cost_models/work.py", "import hwpass.passes.fold", "passes/fold.py",
         "hwpass.cost_models.work (cost_models) imports hwpass.passes.fold (passes), which stands above"),
        ("passes/fold.py", "from hwpass import Model", "hwpass/__init__.py",
         "hwpass.passes.fold imports hwpass; import the module that has the name"),
        ("passes/fold.py", "from hwpass.model import model", "hwpass/model/model.py", None),
    ],
)  # fmt: skip
def test_an_import_that_runs_up_is_named(
    module: str, line: str, goal: str, said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in ((goal, ""), (module, line)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr(rooms, "ROOT", tmp_path)
    assert rooms.upward() == ([] if said is None else [said])


def test_a_circle_inside_a_room_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "hwpass" / "cost"
    folder.mkdir(parents=True)
    (folder / "one.py").write_text("from hwpass.cost.two import a\n")
    (folder / "two.py").write_text("def f():\n    import hwpass.cost.one\n")
    monkeypatch.setattr(rooms, "ROOT", tmp_path)
    assert rooms.circles() == [["hwpass.cost.one", "hwpass.cost.two", "hwpass.cost.one"]]
