"""What there is to choose from, and how fast models ran: `hwpass targets`, `passes` and `bench`."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_type_hints

from rich.console import Console

from hwpass.errors import in_words
from hwpass.figures import human_energy, human_seconds
from hwpass.reporting.tables import print_line, print_table

if TYPE_CHECKING:
    from hwpass.cost.bench import Timing
    from hwpass.cost_models import Target
    from hwpass.manager import Pass

#: Keys of a target that are no figures; they stand in the heading.
WORDS = (
    "name", "description", "aliases", "extends", "model", "runtime", "dtype", "sources", "fusion", "validation",
    "uncertainty", "pipeline",
)  # fmt: skip


def render_targets(console: Console, names: Sequence[str] | None = None) -> None:
    """Print targets, one line each: all of them, or some by name."""
    from hwpass.cost_models import load_target, target_names

    rows = []
    for name in target_names() if names is None else names:
        target = load_target(name)
        rows.append((name, target.model, " ".join(target.peak), str(target.align), target.description))
    headings = ("target", "cost model", "formats", "align", "what it is")
    print_table(console, headings, rows, "lllrl", most=len(rows))
    print_line(console, "hwpass targets NAME shows the figures and their sources", "dim")


def render_target(name: str, console: Console) -> None:
    """Print a target's figures, each with its source; a word that is part of several names lists these.

    Raises UsageError or InputError.
    """
    from hwpass.cost_models import find_targets, load_target

    several = find_targets(name) if "." not in name else []
    if len(several) > 1:
        render_targets(console, several)
        return
    target = load_target(several[0] if several else name)
    print_line(console, f"{target.name}: {target.description}", "bold")
    if target.aliases:
        print_line(console, f"also called {', '.join(target.aliases)}")
    if target.extends is not None:
        print_line(console, f"extends {target.extends}: what is not said here is taken from there")
    print_line(console, f"runtime: {target.runtime}")
    print_line(console, f"cost model: {target.model}")
    _render_fallback(target, console)
    if target.pipeline is not None:
        print_line(console, f"pipeline: {target.pipeline}")
    figures = list(target_figures(target))
    # A source often covers many figures: it is printed once, and the figures carry its number.
    numbers = {text: number for number, text in enumerate(dict.fromkeys(s for _, _, s in figures if s), 1)}
    _render_figures(figures, numbers, console)
    if target.uncertainty:
        wide = ", ".join(f"{kind} {100 * (math.exp(u) - 1):.0f} %" for kind, u in target.uncertainty.items())
        print_line(console, "")
        print_line(console, f"nine of ten latencies lie within: {wide}")
    if target.validation:
        print_line(console, "")
        print_line(console, "checked against", "bold")
        for key, text in target.validation.items():
            print_line(console, f"  {key}: {text}")
    print_line(console, "")
    print_line(console, "fused into one kernel" if target.fusion else "nothing is fused", "bold")
    for start, ends in _by_start(target.fusion):
        print_line(console, f"  {start} + {ends}")
    print_line(console, "")
    print_line(console, "sources", "bold")
    for text, number in numbers.items():
        print_line(console, f"  [{number}] {text}")
    if target.fusion:
        print_line(console, f"  fusion: {target.source('fusion')}")


def _render_fallback(target: Target, console: Console) -> None:
    """What the target cannot run, and who does."""
    found = target.fallback
    if found is None:
        return
    what = f"all but {', '.join(found.runs)}" if found.runs else ", ".join(found.lacks)
    rest = ", and all behind the first of them" if found.rest else ""
    print_line(console, f"runs on {found.host} instead: {what}{rest}")


def _render_figures(figures: Sequence[tuple[str, str, str]], numbers: Mapping[str, int], console: Console) -> None:
    keys, values = (max(len(item[i]) for item in figures) for i in (0, 1))
    print_line(console, "")
    print_line(console, "figures", "bold")
    for key, value, source in figures:
        number = f"  [{numbers[source]}]" if source else ""
        print_line(console, f"  {key:<{keys}}  {value:>{values}}{number}")


def _by_start(chains: Sequence[Sequence[str]]) -> Iterator[tuple[str, str]]:
    """Chains that differ in their last operator alone, as one line."""
    ends: dict[str, list[str]] = {}
    for chain in chains:
        ends.setdefault(" + ".join(chain[:-1]), []).append(chain[-1])
    for start, last in ends.items():
        yield start, " or ".join(last)


def target_figures(target: Target) -> Iterator[tuple[str, str, str]]:
    """Dotted key, value and source of every figure of a target."""
    for key, value in _leaves(target.model_dump(exclude_unset=True, exclude_none=True, exclude=set(WORDS))):
        try:
            source = target.source(key)
        except KeyError:
            source = ""
        yield key, f"{value:g}" if isinstance(value, float) else str(value), source


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def summary(thing: Any) -> str:
    """The first paragraph of a docstring, as one line."""
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())


@dataclasses.dataclass(frozen=True)
class PassOption:
    """One option of a pass: how it is written, its default as it is written, its help, and what each choice means.

    A field's `metadata["choices"]` is a function that gives pairs of a choice and its meaning.
    """

    name: str
    default: str
    help: str
    choices: tuple[tuple[str, str], ...] = ()


def pass_options(cls: type[Pass]) -> list[PassOption]:
    """The options of a pass in the order of its fields."""
    types = get_type_hints(cls)
    found = []
    for option in dataclasses.fields(cls):
        default = option.default
        if isinstance(default, tuple):
            text = "|".join(default)
        else:
            text = str(default).lower() if types[option.name] is bool else str(default)
        choices = option.metadata.get("choices", tuple)
        words = str(option.metadata.get("help", ""))
        found.append(PassOption(option.name.replace("_", "-"), text, words, tuple(choices())))
    return found


def render_passes(console: Console) -> None:
    """Print every pass with its rewrite and its options."""
    from hwpass.manager import passes

    for name, cls in passes().items():
        print_line(console, name, "bold")
        print_line(console, f"  {summary(cls)}")
        for word, found in (("requires", cls.requires), ("ensures", cls.ensures)):
            if found:
                print_line(console, f"  {word}: {'; '.join(condition.summary for condition in found)}")
        for option in pass_options(cls):
            default = f" (default {option.default})" if option.default else ""
            print_line(console, f"  {option.name}: {option.help}{default}")
            for choice, meaning in option.choices:
                print_line(console, f"    {choice}: {meaning}")
    print_line(console, "")
    given = in_words("--pipeline ", "pipeline=")
    print_line(console, f"A pipeline: {given}'fold,fuse-bn,prune-channels{{latency=0.6x,score=l2}},verify'", "dim")


def render_timings(timings: Sequence[Timing], console: Console) -> None:
    """Print measured latencies, and each against the first: the ratio and the speed-up."""
    rows = []
    for timing in timings:
        low, middle, high = (human_seconds(ms / 1e3) for ms in (timing.low_ms, timing.median_ms, timing.high_ms))
        spread = f"{timing.ratio_low:.3f} to {timing.ratio_high:.3f}"
        rows.append(
            (
                timing.name,
                middle,
                f"{low} to {high}",
                human_seconds(timing.quick_ms / 1e3),
                f"{timing.ratio:.3f}x",
                spread,
                f"{1 / timing.ratio:.2f}",
                *([] if timing.energy_mj is None else [human_energy(timing.energy_mj)]),
            )
        )
    headings = ["model", "median", "sessions", "fastest 10%", "ratio", "rounds", "speed-up"]
    metered = any(timing.energy_mj is not None for timing in timings)
    print_table(console, (*headings, "energy") if metered else headings, rows, "lrrrrrlr"[: 8 if metered else 7])
    print_line(console, "ratio: latency over the first model's, within rounds of fresh sessions", "dim")
    if metered:
        print_line(console, "energy: of one run, all that the meter counts meanwhile, idle draw included", "dim")
