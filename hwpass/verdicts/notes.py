"""What a pass found out that nobody else has a place for: plain figures and words by name, which reports show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import JsonValue

#: Figures and words of one pass, by what they are.
Note = dict[str, JsonValue]


def as_note(found: Mapping[str, Any]) -> Note:
    """What was found as JSON: NumPy's numbers and arrays become plain ones, and what is not finite null.

    >>> as_note({"heads": np.int64(3), "shares": np.asarray([0.5, np.nan]), "kept": ("a", "b")})
    {'heads': 3, 'shares': [0.5, None], 'kept': ['a', 'b']}

    Raises TypeError for a value that JSON has no form for, named by its key.
    """
    return {_text(key): _plain(value, key) for key, value in found.items()}


def _plain(value: Any, key: str) -> JsonValue:
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_text(name): _plain(inner, key) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, key) for inner in value]
    raise TypeError(f"note {key}: a {type(value).__name__} is no JSON; give numbers, texts, lists or mappings of them")


def _text(value: object) -> str:
    # Names of files may have stand-ins in them for bytes that are no UTF-8.
    return str(value).encode(errors="backslashreplace").decode()
