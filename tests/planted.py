"""Faults planted in the product while it runs: one text substitution inside one function, and what comes of it."""

from __future__ import annotations
import __future__

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import onnx
from click.testing import CliRunner

import hwpass
from hwpass.command.cli import main
from hwpass.errors import HwpassError


@dataclass(frozen=True)
class Subject:
    """A model that faults are tried on, and how hwpass is asked to prune it.

    `emptied` are groups that lose all channels, by a plan that `hwpass apply` is given.
    """

    make: Callable[[], onnx.ModelProto]
    options: dict[str, Any] = field(default_factory=dict)
    external: bool = False  # weights in a file beside the model
    emptied: tuple[str, ...] = ()

    def write(self, folder: Path) -> None:
        """The model as a file, and the plan where one is applied: made by the sound product."""
        source = folder / "given.onnx"
        onnx.save(self.make(), source, save_as_external_data=self.external, location="given.data", size_threshold=64)
        if self.emptied:
            plan = self.run(source).plan
            assert plan is not None
            groups = {group.name: group for group in plan.groups}
            for name in self.emptied:
                groups[name].kept = []
            (folder / "plan.json").write_text(plan.to_json(), encoding="utf-8")

    def save(self, folder: Path, target: Path) -> None:
        """What hwpass makes of it, as a file. Raises as hwpass does."""
        if not self.emptied:
            return self.run(folder / "given.onnx").save(target)
        arguments = ["apply", str(folder / "plan.json"), str(folder / "given.onnx"), "-o", str(target)]
        ended = CliRunner().invoke(main, arguments)
        if ended.exit_code:
            error = HwpassError(ended.output)
            error.exit_code = ended.exit_code
            raise error

    def run(self, source: Path) -> hwpass.Result:
        """The result for the model in a file. Raises as hwpass does."""
        if "pipeline" in self.options:
            return hwpass.run(source, "server-cpu", **self.options)
        options = {"channels": 0.6, "score": "l2", "compensate": "off", "align": 1, **self.options}
        return hwpass.run(source, "server-cpu", **options)


@dataclass(frozen=True)
class Fault:
    """`before` becomes `after` in the source of `where`: a function, however it is decorated, or a property."""

    says: str
    where: Any
    before: str
    after: str
    subject: str
    status: int = 5

    def __str__(self) -> str:
        return self.says.replace(" ", "-")


def function_of(where: Any) -> FunctionType:
    """The plain function behind a method, a property, a cached property or a decorator."""
    if isinstance(where, property):
        where = where.fget
    if isinstance(where, cached_property):
        where = where.func
    found = inspect.unwrap(getattr(where, "__func__", where))
    assert isinstance(found, FunctionType), where
    return found


def changed_code(function: FunctionType, before: str, after: str) -> CodeType:
    """The function's code with one piece of its source, which must stand there exactly once, replaced.

    Further lines of what is put in are indented like the line that it begins in.
    """
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(before) == 1, f"{function.__qualname__} has {source.count(before)} times {before!r}"
    line = source[source.rfind("\n", 0, source.index(before)) + 1 :]
    text = source.replace(before, after.replace("\n", "\n" + " " * (len(line) - len(line.lstrip()))))
    tree = ast.parse(text)
    (definition,) = tree.body
    assert isinstance(definition, ast.FunctionDef)
    definition.decorator_list.clear()
    module = compile(tree, f"<fault in {function.__qualname__}>", "exec", __future__.annotations.compiler_flag)
    (code,) = [c for c in module.co_consts if isinstance(c, CodeType)][-1:]
    assert code.co_name == function.__name__
    assert code.co_freevars == function.__code__.co_freevars
    return code


@contextmanager
def planted(fault: Fault) -> Iterator[None]:
    """The fault in the product, everywhere that the function is used."""
    function = function_of(fault.where)
    sound = function.__code__
    function.__code__ = changed_code(function, fault.before, fault.after)
    try:
        yield
    finally:
        function.__code__ = sound


def outcome(subject: Subject, folder: Path) -> tuple[int, str]:
    """The status that a run and the saving of its result end with, and the message. No file is left by a failure."""
    target = folder / "result.onnx"
    try:
        subject.save(folder, target)
    except HwpassError as error:
        assert not target.exists(), "a refused model was written"
        return error.exit_code, str(error)
    assert target.exists()
    return 0, ""
