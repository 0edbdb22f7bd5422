"""Figures, names and values as people read them: short, printable, on one line."""

from __future__ import annotations

import os
from collections.abc import Sequence

#: Characters of the longest `repr` of an object of hwpass.
LONGEST_REPR = 180


def brief(thing: object, *facts: object) -> str:
    """What an object prints as: its class and a few facts, on one short line. Facts that are empty are left out.

    >>> brief(1.5, "2 nodes", "", None, "opset 17")
    'float(2 nodes, opset 17)'
    >>> len(brief(1.5, "x" * 1000))
    180
    """
    told = ", ".join(shown(str(fact), LONGEST_REPR) for fact in facts if fact not in ("", None))
    text = f"{type(thing).__name__}({told})"
    return text if len(text) <= LONGEST_REPR else text[: LONGEST_REPR - 4] + "...)"


def counted(count: int, what: str) -> str:
    """A number of things.

    >>> counted(1, "group"), counted(0, "group")
    ('1 group', '0 groups')
    """
    return f"{count} {what}" + ("" if count == 1 else "s")


def human_bytes(size: float | None) -> str:
    """Bytes in binary units.

    >>> human_bytes(0), human_bytes(1536), human_bytes(3 * 1024**3), human_bytes(None)
    ('0 B', '1.50 KiB', '3.00 GiB', '-')
    """
    if size is None:
        return "-"
    if abs(size) < 1024:
        return f"{size:.0f} B"
    unit, number = _scaled(size / 1024, 1024, ("KiB", "MiB", "GiB", "TiB"))
    return f"{_three(number)} {unit}"


def human_count(count: float | None) -> str:
    """Counts with k, M, G, T.

    >>> human_count(950), human_count(25_507_944), human_count(4.09e9), human_count(None)
    ('950', '25.5 M', '4.09 G', '-')
    """
    if count is None:
        return "-"
    if abs(count) < 1000:
        return f"{count:.0f}"
    unit, number = _scaled(count / 1000, 999.5, ("k", "M", "G", "T"), step=1000)
    return f"{_three(number)} {unit}"


def human_seconds(seconds: float | None) -> str:
    """Durations from microseconds to hours.

    >>> human_seconds(0.0000123), human_seconds(0.0155), human_seconds(2.5), human_seconds(200)
    ('12.3 µs', '15.5 ms', '2.50 s', '3 min 20 s')
    """
    if seconds is None:
        return "-"
    if abs(seconds) < 1e-3:
        return f"{_three(seconds * 1e6)} µs"
    if abs(seconds) < 1:
        return f"{_three(seconds * 1e3)} ms"
    if abs(seconds) < 60:
        return f"{_three(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def human_energy(millijoules: float | None) -> str:
    """Energy from microjoules to joules.

    >>> human_energy(0.0123), human_energy(5.25), human_energy(1500)
    ('12.3 µJ', '5.25 mJ', '1.50 J')
    """
    if millijoules is None:
        return "-"
    if abs(millijoules) < 1:
        return f"{_three(millijoules * 1e3)} µJ"
    return f"{_three(millijoules)} mJ" if abs(millijoules) < 1000 else f"{_three(millijoules / 1e3)} J"


def _scaled(value: float, limit: float, units: Sequence[str], step: float = 1024) -> tuple[str, float]:
    """The first unit in which the value stays below the limit, and the value in it."""
    place = 0
    while abs(value) >= limit and place < len(units) - 1:
        value /= step
        place += 1
    return units[place], value


def _three(value: float) -> str:
    """Three significant digits, without an exponent.

    >>> [_three(value) for value in (0, 9.999, 25.5, 640.2)]
    ['0.00', '10.0', '25.5', '640']
    """
    size = abs(value)
    return f"{value:.2f}" if size < 9.995 else f"{value:.1f}" if size < 99.95 else f"{value:.0f}"


def shown_path(path: str | os.PathLike[str]) -> str:
    """A path as it may stand in a message: printable, on one line, and of one that is too long its end."""
    text = shown(os.fspath(path), 5000)
    return text if len(text) <= 300 else "..." + text[-297:]


def shown(value: object, longest: int = 80) -> str:
    """A value from a file as it may stand in a message: short, printable, on one line.

    >>> shown("conv1"), shown("a\\nb"), shown("x" * 1000, 9)
    ('conv1', 'a\\\\nb', 'xxxxxx...')
    >>> shown({"deep": [1, 2]}), shown(10**5000)
    ('a table', 'a number of 16610 bits')
    """
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"  # Python refuses to write very long ones
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    text = (value if isinstance(value, str) else repr(value))[: longest + 1]
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= longest else text[: longest - 3] + "..."
