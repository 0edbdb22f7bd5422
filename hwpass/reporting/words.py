"""How reports put things, whatever their form."""

from __future__ import annotations

from collections.abc import Sequence

from hwpass.figures import human_seconds

#: The heading of the notes.
NOTES = ("pass", "found", "value")

#: The heads of the table of models on the way.
MEASURED = ("after", "parameters", "size", "activations", "peak of these", "MACs", "latency", "relative L2 error")


def abbreviated(names: Sequence[str], limit: int = 3) -> str:
    """The first names and how many more there are.

    >>> abbreviated(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def figure(value: float | None) -> str:
    """Three digits, or a dash."""
    return "-" if value is None else f"{value:.3g}"


def milliseconds(value: float | None) -> str:
    """Milliseconds as people read them."""
    return human_seconds(None if value is None else value / 1e3)
