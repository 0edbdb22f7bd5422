"""Help of a command: its options in groups, and examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

#: The groups in the order of the help; what says nothing else is in the first.
GROUPS = ("Options", "Budget", "Data and accuracy", "Outputs", "Debugging", "Advanced")


class Placed(click.Option):
    """An option that knows its group."""

    def __init__(self, *arguments: Any, group: str = GROUPS[0], **more: Any) -> None:
        self.group = group
        super().__init__(*arguments, **more)


def option(*names: str, group: str = GROUPS[0], **given: Any) -> Callable[[Any], Any]:
    """A decorator: an option of the command line alone, in a group of the help."""
    return click.option(*names, **{"cls": Placed, "group": group, **given})


def group_of(parameter: click.Parameter) -> str:
    """The group that a parameter stands in."""
    return str(getattr(parameter, "group", GROUPS[0]))


class Grouped(click.Command):
    """A command whose help shows its options in groups, and ends with examples."""

    def __init__(self, *arguments: Any, examples: Sequence[str] = (), **more: Any) -> None:
        """`examples` are command lines, without the prompt."""
        self.examples = tuple(examples)
        super().__init__(*arguments, **more)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each group that has options."""
        rows: dict[str, list[tuple[str, str]]] = {group: [] for group in GROUPS}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                rows[group_of(parameter)].append(record)
        for group, records in rows.items():
            if records:
                with formatter.section(group):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section("Examples" if len(self.examples) > 1 else "Example"):
                for example in self.examples:
                    formatter.write(f"{'':>{formatter.current_indent}}$ {example}\n")
