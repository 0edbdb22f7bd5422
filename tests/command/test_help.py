"""Every command's help: its options in groups, and examples that the command itself can read."""

from __future__ import annotations

import shlex
from typing import Any

import click
import pytest

from hwpass.command.cli import main
from hwpass.command.grouped import GROUPS, Grouped, group_of
from hwpass.options import RunOptions, of_command


@pytest.mark.parametrize("name", sorted(main.commands))
def test_help_has_groups_and_examples(name: str) -> None:
    command = main.commands[name]
    assert isinstance(command, Grouped)
    context = click.Context(command, info_name=name)
    text = command.get_help(context)
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is None or isinstance(parameter, click.Argument):
            continue
        group = group_of(parameter)
        assert group in GROUPS
        heading = text.index(f"\n{group}:\n")
        later = [text.find(f"\n{g}:\n") for g in GROUPS[GROUPS.index(group) + 1 :]]
        end = min([place for place in later if place > heading], default=len(text))
        assert parameter.opts[0] in text[heading:end]
    assert "\nExample" in text
    for example in command.examples:
        assert f"  $ {example}\n" in text + "\n"


@pytest.mark.parametrize("name", sorted(main.commands))
def test_examples_are_commands(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command = main.commands[name]
    assert isinstance(command, Grouped)
    for example in command.examples:
        program, own, *words = shlex.split(example)
        assert (program, own) == ("hwpass", name)
        monkeypatch.setattr(command, "callback", lambda **given: None)
        command.main(words, standalone_mode=False)


def test_an_option_of_a_run_stands_in_the_group_that_it_says() -> None:
    for name in ("run", "sweep", "apply", "verify"):
        options: dict[str | None, Any] = {p.name: p for p in main.commands[name].params}
        for item in of_command(name):
            assert group_of(options[item.name]) == item.metadata["group"]
    assert {item.metadata["group"] for item in of_command("run")} == {
        "Budget", "Data and accuracy", "Debugging", "Advanced",
    }  # fmt: skip
    assert RunOptions().latency is None
