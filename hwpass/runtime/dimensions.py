"""Sizes of a model's dynamic axes, found by running it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import onnx
import onnxruntime as ort

from hwpass.errors import InputError, option
from hwpass.runtime.inputs import MAX_TOKEN, InputSpec, input_specs, make_inputs
from hwpass.runtime.memory import release_memory
from hwpass.runtime.sessions import open_session, run_session

Size = Literal["small", "typical"]
Runs = Callable[[Mapping[str, int]], bool]
"""Whether the model runs with sizes of its dynamic axes."""
Fits = Callable[[Mapping[str, int]], bool]
"""Whether sizes take no more memory than there may be."""

Role = Literal["batch", "spatial", "volume", "sequence", "channel"]

SPATIAL = (64, 96, 128, 160, 224, 256, 320, 384, 512, 640)
"""Sizes tried for image axes: the strides of most networks divide them."""

VOLUME = (32, 16, 48, 64, 96, 128)
"""Sizes tried for the axes of a volume or a film: three of 32 are as many positions as an image has."""

SEQUENCE = (4, 7, 12, 16, 32, 64, 128, 256, 512, 1024, 4000, 8000, 16000)
"""Sizes tried for tokens, frames and audio samples."""

CHANNEL = (3, 1, 4, 16, 64)
"""Sizes tried for a dynamic channel axis of an image-like input."""


def dimension_values(
    model: onnx.ModelProto,
    *,
    count: int = 3,
    seed: int = 0,
    threads: int = 1,
    session: ort.InferenceSession | None = None,
    fits: Fits = lambda dims: True,
) -> list[dict[str, int]]:
    """Up to `count` sizes of the dynamic axes that the model really runs with, smallest first.

    `[{}]` for a model without dynamic axes. Sizes differ between axes with different names wherever the model
    allows it. `session` saves opening one; sizes that do not fit (take too much memory) are left out.
    Raises `InputError` naming an input when nothing runs.
    """
    return _search(model, "small", count, seed, threads, session, fits)


def typical_dimensions(
    model: onnx.ModelProto,
    *,
    seed: int = 0,
    threads: int = 1,
    session: ort.InferenceSession | None = None,
    fits: Fits = lambda dims: True,
) -> dict[str, int]:
    """Sizes a deployment would use, for timing and cost: batch 1, images of 224, volumes of 32, sequences of 128.

    Where those do not run, the next size that does. Raises `InputError` naming an input when nothing runs.
    """
    return _search(model, "typical", 1, seed, threads, session, fits)[0]


def _search(
    model: onnx.ModelProto,
    size: Size,
    count: int,
    seed: int,
    threads: int,
    session: ort.InferenceSession | None,
    fits: Fits,
) -> list[dict[str, int]]:
    specs = input_specs(model)
    trial = _Trial(open_session(model, threads=threads, level="lean") if session is None else session, specs, seed)
    try:
        return search_sizes(specs, trial.runs, size, count, fits)
    except InputError as error:
        raise InputError(unusable(specs, trial.failure or str(error), [str(error), *MANNERS])) from error
    finally:
        if session is None:
            del trial
            release_memory()


#: How inputs are drawn while sizes are tried.
MANNERS = (f"integers below {MAX_TOKEN}", "integers below 2")


@dataclass
class _Trial:
    """Runs the model with random inputs of given sizes and remembers the first failure."""

    session: ort.InferenceSession
    specs: Sequence[InputSpec]
    seed: int
    failure: str = ""

    def runs(self, dims: Mapping[str, int]) -> bool:
        limits = (MAX_TOKEN,) if all(spec.is_float for spec in self.specs) else (MAX_TOKEN, 2)
        for limit in limits:  # token types and the like have tables of two rows
            try:
                run_session(self.session, make_inputs(self.specs, dims, self.seed, max_token=limit))
                return True
            except InputError as error:
                self.failure = self.failure or str(error)
        return False


def search_sizes(
    specs: Sequence[InputSpec], runs: Runs, size: Size, count: int, fits: Fits = lambda dims: True
) -> list[dict[str, int]]:
    """Up to `count` sizes of the dynamic axes for which `runs` says true, smallest first, of those that fit.

    Axes with one meaning vary apart from each other where the model allows it, else together; the last resort are
    sizes of 1, and of 2, for all of them. Raises `InputError` with the sizes that were tried when none run.
    """
    roles, base = axis_roles(specs), None
    tried: list[dict[str, int]] = []

    def good(dims: dict[str, int]) -> bool:
        if dims in tried or not fits(dims):
            return False
        tried.append(dims)
        return runs(dims)

    for choice in _role_choices(specs, roles):
        roles = choice
        bases = _base_sizes(set(roles.values()), size)
        base = next((base for base in bases if good(_assign(roles, base, 0, distinct=False))), None)
        if base is not None:
            break
    if base is None:
        for same in (1, 2) if roles else ():
            dims = dict.fromkeys(roles, same)
            if good(dims):
                return [dims]
        raise InputError(_sizes_tried(tried) if roles else "its fixed sizes")
    found = [_assign(roles, base, 0, distinct=False)]
    varied = _assign(roles, base, 0, distinct=True)
    if size == "small" and varied != found[0] and good(varied):
        found = [varied]
    for step in range(1, count if roles else 1):
        for dims in _variants(roles, base, step):
            if dims not in found and good(dims):
                found.append(dims)
                break
    return found


def _sizes_tried(tried: Sequence[Mapping[str, int]]) -> str:
    """The spans of sizes that were tried, for a message."""
    spans = []
    for name in tried[0] if tried else ():
        sizes = sorted({dims[name] for dims in tried})
        spans.append(f"{name} = {', '.join(map(str, sizes)) if len(sizes) < 4 else f'{sizes[0]} to {sizes[-1]}'}")
    return "; ".join(spans) or "every size takes too much memory"


def axis_roles(specs: Sequence[InputSpec]) -> dict[str, Role]:
    """What each dynamic axis is, by its name and its place; sums of other axes (`past + 1`) are left out."""
    roles: dict[str, Role] = {}
    for spec in specs:
        for axis, symbol in enumerate(spec.shape):
            if isinstance(symbol, str) and "+" not in symbol:
                roles.setdefault(symbol, _role(symbol, axis, len(spec.shape)))
    return roles


def _role_choices(specs: Sequence[InputSpec], roles: dict[str, Role]) -> Iterator[dict[str, Role]]:
    """The likely roles; then unnamed axes as one more batch axis: each in turn, and all that stand behind a fixed one
    (the states of recurrent layers)."""
    yield roles
    unnamed = [symbol for symbol, role in roles.items() if "." in symbol and role != "batch"]
    for symbol in unnamed:
        yield {**roles, symbol: "batch"}
    behind = {s for spec in specs for s in spec.shape[1:] if isinstance(s, str) and isinstance(spec.shape[0], int)}
    states = [symbol for symbol in unnamed if symbol in behind]
    if len(states) > 1:
        yield {**roles, **dict.fromkeys(states, "batch")}


def _role(symbol: str, axis: int, rank: int) -> Role:
    name = symbol.lower()
    if "batch" in name or (name in ("n", "bs") and axis < max(rank - 1, 1)):  # [batch, n] is a batch of n samples each
        return "batch"
    if rank >= 5 and axis >= 2:
        return "volume"
    if re.search(r"height|width|\b[hw]\b|^[hw]_?\d*$|image_?size", name):
        return "spatial"
    if re.search(r"seq|time|frames|tokens|length|samples", name):
        return "sequence"
    if axis == 0:
        return "batch"
    if rank >= 4:
        return "channel" if axis == 1 else "spatial"
    return "sequence"


def _base_sizes(roles: set[Role], size: str) -> Iterator[dict[Role, int]]:
    """The sizes to try per role, preferred first; at most 60, so that a model that never runs ends soon."""
    ladders: dict[Role, Sequence[int]] = {
        "batch": (1,),
        "channel": CHANNEL,
        "spatial": SPATIAL,
        "volume": VOLUME,
        "sequence": SEQUENCE,
    }
    if size == "typical":
        spatial, sequence = SPATIAL.index(224), SEQUENCE.index(128)
        ladders["spatial"] = SPATIAL[spatial:] + SPATIAL[:spatial][::-1]
        ladders["sequence"] = SEQUENCE[sequence:] + SEQUENCE[:sequence][::-1]
    names = sorted(roles)
    ranks = itertools.product(*(range(len(ladders[name])) for name in names))
    for chosen in sorted(ranks, key=lambda ranks: (sum(ranks), ranks))[:60]:
        yield {name: ladders[name][rank] for name, rank in zip(names, chosen, strict=True)}


def _assign(roles: Mapping[str, Role], base: Mapping[Role, int], step: int, *, distinct: bool) -> dict[str, int]:
    """Sizes at `step` steps above the base; with `distinct`, axes of one role differ from each other."""
    seen: dict[Role, int] = {}
    dims = {}
    for symbol, role in roles.items():
        place = step + (seen.get(role, 0) if distinct and (step or role != "batch") else 0)
        seen[role] = seen.get(role, 0) + 1
        dims[symbol] = _grown(role, base[role], place)
    return dims


def _grown(role: Role, base: int, place: int) -> int:
    if role == "batch":
        return base + place
    if role in ("spatial", "volume"):
        return base + (32 if role == "spatial" else 16) * place
    if role == "channel":
        return base
    return (4, 7, 12, 15, 19, 23)[place] if base == 4 and place < 6 else base * (place + 1)


def _variants(roles: Mapping[str, Role], base: Mapping[Role, int], step: int) -> Iterator[dict[str, int]]:
    """The sizes of one step, most varied first: all axes distinct, equal within a role, one role alone."""
    first = _assign(roles, base, 0, distinct=False)
    yield _assign(roles, base, step, distinct=True)
    grown = _assign(roles, base, step, distinct=False)
    yield grown
    yield {symbol: grown[symbol] if role == "batch" else first[symbol] for symbol, role in roles.items()}
    yield {symbol: first[symbol] if role == "batch" else grown[symbol] for symbol, role in roles.items()}


def unusable(specs: Sequence[InputSpec], failure: str, tried: Sequence[str]) -> str:
    """One line for a model that no inputs were found for: what ONNX Runtime said first, what was tried, the mend."""
    named = next((spec for spec in specs if f"'{spec.name}'" in failure or f" {spec.name} " in failure), None)
    spec = named or next((spec for spec in specs if not all(isinstance(s, int) for s in spec.shape)), None)
    spec = spec or (specs[0] if specs else None)
    if spec is None:
        return f"the model has no inputs and does not run: {failure}"
    shape = ", ".join(map(str, spec.shape))
    what = f"; tried: {'; '.join(tried)}" if tried else ""
    which = f"input {spec.name!r} [{shape}]"
    return f"{which}: no size that was tried runs ({failure}){what}; give calibration data with {option('calib')}"
