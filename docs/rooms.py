"""The rooms of the code, their order, and the imports between them, read from the syntax trees."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent

#: From the ground up, and what each is for: a room imports only what stands before it.
ROOMS = {
    "ground": "errors, the version, what may be asked, what others add, what a signal ends, figures, names and globs",
    "files": "files that appear whole or not at all, and files that are data",
    "cost_models": "targets, and what a kernel's work costs on one; the work is all they know of a model",
    "proto": "ONNX protobufs: read, brought into one form, written",
    "runtime": "ONNX Runtime: sessions, inputs, calibration data, settings of a run",
    "model": "the model in memory, read and checked",
    "ops": "everything about every operator: one rule each",
    "coupling": "which channels go together, and why",
    "data": "what models are fed when nobody gives inputs, and what flows inside them",
    "runners": "what runs a model and says how long it took",
    "cost": "what widths cost on a target, predicted and measured",
    "surgery": "edits of a model: constants folded, norms fused or turned, channels cut out, the rest refitted",
    "torch": "the graph of a model as a differentiable function of its weights",
    "planning": "which channels go",
    "verdicts": "whether the result is right, close and good",
    "formats": "number formats: what is quantised or halved, with which ranges, and what must not be",
    "pipeline": "passes by name, in order, and what they share",
    "instruments": "what watches a pipeline: proofs, differences and files between passes, and limits",
    "passes": "the passes: each calls a room",
    "reporting": "what people and programs read of a run",
    "workflows": "one command, one module",
    "command": "the command line",
    "integrations": "adapters for tools that run hwpass as a step",
}

#: Modules beside the rooms, and the room that each counts as.
TOP = {
    "analyses": "ground",
    "errors": "ground",
    "version": "ground",
    "figures": "ground",
    "globs": "ground",
    "node_names": "ground",
    "options": "ground",
    "interrupts": "ground",
    "plugins": "ground",
    "spans": "ground",
    "context": "pipeline",
    "contract": "pipeline",
    "contract_check": "pipeline",
    "instrument": "pipeline",
    "manager": "pipeline",
    "pipeline": "pipeline",
    "pipeline_text": "pipeline",
    "pipeline_toml": "pipeline",
}

#: The faces of the package: they give names to what the rooms hold.
FACES = {"hwpass", "hwpass.__main__"}


class Arrow(NamedTuple):
    """An import: who imports what, both as module names."""

    source: str
    goal: str


def modules() -> dict[str, Path]:
    """Every module of the package by its name; `passes` and `cost_models` lie beside the other rooms."""
    found = {}
    for folder in (ROOT / "hwpass", ROOT / "passes", ROOT / "cost_models"):
        for path in folder.rglob("*.py"):
            relative = path.relative_to(ROOT).with_suffix("").parts
            if folder.name == "hwpass" and relative[1] in ("passes", "cost_models"):
                continue  # links to the folders beside it
            parts = relative if folder.name == "hwpass" else ("hwpass", *relative)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room_of(module: str) -> str:
    """The room that a module stands in. Raises KeyError for one that has none."""
    name = module.split(".")[1]
    return name if name in ROOMS else TOP[name]


def arrows() -> Iterator[Arrow]:
    """Every import of one module by another, those inside functions and for type checkers among them."""
    known = modules()
    for source, path in known.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                goals = {name if name in known else node.module for name in names}
            elif isinstance(node, ast.Import):
                goals = {alias.name for alias in node.names}
            else:
                continue
            yield from (Arrow(source, goal) for goal in sorted(goals) if goal in known and goal != source)


def upward() -> list[str]:
    """The imports that run up, or out of a room into the face of the package, each in one line."""
    order = {room: number for number, room in enumerate(ROOMS)}
    found = []
    for arrow in arrows():
        if arrow.source in FACES:
            continue
        if arrow.goal in FACES:
            found.append(f"{arrow.source} imports {arrow.goal}; import the module that has the name")
        elif order[room_of(arrow.source)] < order[room_of(arrow.goal)]:
            ends = f"{arrow.source} ({room_of(arrow.source)}) imports {arrow.goal} ({room_of(arrow.goal)})"
            found.append(f"{ends}, which stands above")
    return found


def circles() -> list[list[str]]:
    """Modules that import each other, directly or in a circle."""
    reached: dict[str, set[str]] = {}
    for arrow in arrows():
        # A package's own face stands for what it names.
        if arrow.source not in FACES and arrow.goal not in FACES:
            reached.setdefault(arrow.source, set()).add(arrow.goal)
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            found.append([*path[path.index(name) :], name])
        elif name not in done:
            for goal in sorted(reached.get(name, ())):
                visit(goal, [*path, name])
            done.add(name)

    for name in sorted(reached):
        visit(name, [])
    return found


def picture() -> str:
    """The rooms and the imports between them as a Mermaid graph; an import that shorter ones make up is left out."""
    order = list(ROOMS)
    counts: Counter[tuple[str, str]] = Counter()
    for arrow in arrows():
        if arrow.source not in FACES and arrow.goal not in FACES:
            ends = room_of(arrow.source), room_of(arrow.goal)
            counts[ends] += ends[0] != ends[1]
    direct = {room: {goal for (source, goal), n in counts.items() if source == room and n} for room in order}
    behind: dict[str, set[str]] = {}
    for room in order:
        behind[room] = {further for goal in direct[room] for further in (goal, *behind.get(goal, ()))}
    sizes = Counter(room_of(name) for name in modules() if name not in FACES)
    lines = ["```mermaid", "graph BT"]
    lines += [f'    {room}["{room} ({sizes[room]})"]' for room in order]
    for room in order:
        shorter = {further for goal in direct[room] for further in behind[goal]}
        lines += [f"    {room} --> {goal}" for goal in order if goal in direct[room] - shorter]
    return "\n".join([*lines, "```"])
