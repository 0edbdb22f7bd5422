"""Globs that name layers: those of the shell, in which every name can also be written exactly.

`*` is any text, `?` any one character, and `[abc]` or `[!a-z]` one of some, as in `fnmatch`; upper and lower case are
apart. Outside of brackets a backslash takes the next character as it is.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import lru_cache

#: What has a meaning of its own outside of brackets.
SPECIAL = "*?[\\"


def matches(glob: str, name: str) -> bool:
    """Whether a glob means a name.

    A name that is written as it is means itself, whatever it has in it. Only a backslash before one of `*?[\\` says
    that the text is not the name itself.

    >>> matches("/block*/conv", "/block1/conv"), matches("conv[0]", "conv0"), matches("conv[0]", "conv[0]")
    (True, True, True)
    >>> matches(escape("conv[0]"), "conv0"), matches(escape("conv[0]"), "conv[0]")
    (False, True)
    """
    escaped, text = _for_fnmatch(glob)
    return (name == glob and not escaped) or fnmatchcase(name, text)


def escape(name: str) -> str:
    """The glob that means this name and no other.

    >>> print(escape("/layers[0]/mul*"))
    /layers\\[0]/mul\\*
    """
    return "".join(f"\\{c}" if c in SPECIAL else c for c in name)


@lru_cache(1024)
def _for_fnmatch(glob: str) -> tuple[bool, str]:
    """Whether a special character is escaped, and the glob as `fnmatch` reads it, which knows no backslash."""
    escaped, parts, place = False, [], 0
    while place < len(glob):
        character = glob[place]
        end = place + 1
        if character == "\\" and end < len(glob):
            character = glob[end]
            escaped |= character in SPECIAL
            parts.append(f"[{character}]" if character in "*?[" else character)
            end += 1
        elif character == "[":
            end = _closing(glob, place)
            # One that is never closed is a bracket, also before what follows here.
            parts.append(glob[place:end] if end > place + 1 else "[[]")
        else:
            parts.append(character)
        place = end
    return escaped, "".join(parts)


def _closing(glob: str, place: int) -> int:
    """The place behind the bracket that closes the one here; the next place where none does."""
    start = place + 1
    start += glob.startswith("!", start)
    start += glob.startswith("]", start)
    found = glob.find("]", start)
    return place + 1 if found < 0 else found + 1
