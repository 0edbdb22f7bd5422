"""What a user says of an input: its values, how pictures and text become it, and which axis holds the channels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import get_args

from hwpass.errors import UsageError, option
from hwpass.figures import shown
from hwpass.runtime.inputs import InputSpec, Layout, StatedInput

FORM = "NAME:mean=0.5,std=0.25, NAME:range=0..255, NAME:layout=NHWC or NAME:tokenizer=tokenizer.json"

KEYS = ("mean", "std", "range", "layout", "length")


def stated_inputs(asked: str | Iterable[str], specs: Sequence[InputSpec]) -> dict[str, StatedInput]:
    """By the name of the input. The name may be left out where a model has one input. Raises UsageError."""
    found: dict[str, StatedInput] = {}
    for text in (asked,) if isinstance(asked, str) else tuple(asked):
        if not isinstance(text, str):
            raise UsageError(f"{option('input', shown(text))}: write {FORM}")
        # Names may hold colons; what is said of an input holds none, but for the path that ends it.
        before, path_follows, path = text.partition("tokenizer=")
        name, _, said = before.rpartition(":")
        if not name and len(specs) == 1:
            name = specs[0].name
        spec = next((s for s in specs if s.name == name), None)
        if spec is None:
            names = ", ".join(repr(s.name) for s in specs)
            raise UsageError(f"{option('input', shown(text))}: the model has no such input; it has {names}")
        if name in found:
            raise UsageError(f"{option('input', shown(text))}: {name!r} is stated twice; say all of it at once")
        found[name] = _stated(text, said, path if path_follows else None, spec)
    return found


def stated_specs(specs: Sequence[InputSpec], asked: str | Iterable[str]) -> list[InputSpec]:
    """The inputs with what is said of them. Raises UsageError."""
    stated = stated_inputs(asked, specs)
    return [replace(spec, stated=stated.get(spec.name)) for spec in specs]


def _stated(text: str, said: str, tokenizer: str | None, spec: InputSpec) -> StatedInput:
    def refuse(problem: str) -> UsageError:
        return UsageError(f"{option('input', shown(text))}: {problem}; write {FORM}")

    parts: dict[str, str] = {}
    said = said if tokenizer is None else said.removesuffix(",")
    for part in said.split(",") if said or tokenizer is None else ():
        key, equals, value = part.partition("=")
        if not equals or key not in KEYS or key in parts:
            raise refuse(f"{part!r} is not one of mean=, std=, range=, layout=, length= and tokenizer=, each once")
        parts[key] = value
    try:
        numbers = {key: tuple(map(float, value.split("/"))) for key, value in parts.items() if key in ("mean", "std")}
        bounds = tuple(map(float, parts["range"].split(".."))) if "range" in parts else None
        length = int(parts["length"]) if "length" in parts else None
    except ValueError:
        raise refuse("that is no number") from None
    layout = parts.get("layout")
    problem = _problem(numbers, bounds, layout, spec) or _problem_of_text(tokenizer, length, spec, len(parts))
    if problem:
        raise refuse(problem)
    return StatedInput(
        None if bounds is None else (bounds[0], bounds[1]),
        numbers.get("mean", ()),
        numbers.get("std", ()),
        next((known for known in get_args(Layout) if known == layout), None),
        length,
        tokenizer,
    )


def _problem(
    numbers: Mapping[str, tuple[float, ...]], bounds: tuple[float, ...] | None, layout: str | None, spec: InputSpec
) -> str | None:
    """What cannot be meant."""
    values = [v for found in (*numbers.values(), bounds or ()) for v in found]
    if not all(map(math.isfinite, values)):
        return "give finite numbers"
    if layout is not None and layout not in get_args(Layout):
        return f"the layout is {' or '.join(get_args(Layout))}"
    if layout is not None and len(spec.shape) != 4:
        return f"a layout is of an input with four axes; {spec.name!r} has {len(spec.shape)}"
    if bounds is not None and (len(bounds) != 2 or not bounds[0] < bounds[1]):
        return "a range is LOW..HIGH, the lower first"
    if bounds is not None and numbers:
        return "say either a range or mean and std"
    if any(v <= 0 for v in numbers.get("std", ())):
        return "std is above 0"
    if numbers and not (spec.is_float and len(spec.shape) == 4):
        return f"mean and std are of images in floating point; of {spec.name!r} say the range"
    if len({len(v) for v in numbers.values() if len(v) > 1}) > 1:
        return "mean and std have one number, or one for each channel"
    return None


def _problem_of_text(tokenizer: str | None, length: int | None, spec: InputSpec, said: int) -> str | None:
    """What cannot be meant of text; `said` counts what is said beside the tokenizer."""
    if tokenizer is None and length is None:
        return None
    if tokenizer == "":
        return "the path of the tokenizer is missing"
    if spec.dtype.kind not in "iu" or len(spec.shape) != 2:
        return f"text becomes integers [batch, length]; {spec.name!r} is {spec.dtype.name} of shape {list(spec.shape)}"
    if length is not None and length < 1:
        return "a length is at least 1"
    if said > (length is not None):
        return "of text say the tokenizer and the length alone"
    return None
