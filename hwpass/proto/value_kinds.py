"""Values that are no tensors: sequences, maps and optionals, taken apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime as ort


def tensors_of(name: str, value: Any) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of an output: a sequence's and a map's one by one, none of an optional that is empty."""
    if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        for key in value[0]:  # one map for each row, as classifiers give their probabilities
            yield f"{name}[{key!r}]", np.asarray([entry.get(key) for entry in value])
    elif isinstance(value, list):
        for number, entry in enumerate(value):
            yield from tensors_of(f"{name}[{number}]", entry)
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from tensors_of(f"{name}[{key!r}]", entry)
    elif isinstance(value, ort.OrtValue):
        if value.is_tensor():
            yield name, value.numpy()
    elif value is not None:
        yield name, np.asarray(value)
