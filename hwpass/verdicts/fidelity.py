"""The second verdict: how close the rewritten model is to the original, on data."""

from __future__ import annotations

import math
import operator
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

import numpy as np

from hwpass.errors import InputError, UsageError, in_words, option
from hwpass.figures import brief
from hwpass.files.whole_files import spilling
from hwpass.runtime.inputs import is_float
from hwpass.runtime.memory import release_memory
from hwpass.runtime.sessions import Feed, ModelLike, open_session, run_session
from hwpass.verdicts.states import State
from hwpass.verdicts.variation import Variation

METRICS = ("max_abs", "rel_l2", "cosine", "snr_db", "top1")
OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
IDENTICAL_SNR_DB = 200.0
"""What the signal-to-noise ratio of identical outputs is given as, so that figures stay finite."""

ALARMING = {"cosine": 0.95, "rel_l2": 0.3}
"""Where an output counts as far from the original's on the user's data: below this cosine, above this relative L2."""

Feeds = Iterable[Mapping[str, np.ndarray]] | Callable[[], Iterable[Mapping[str, np.ndarray]]]


@dataclass(frozen=True)
class FidelityTolerance:
    """A condition on one metric of one output, or of every output it applies to (`output` None)."""

    metric: str
    comparison: str
    value: float
    output: str | None = None

    def __str__(self) -> str:
        prefix = f"{self.output}:" if self.output else ""
        return f"{prefix}{self.metric}{self.comparison}{self.value:g}"

    def accepts(self, value: float) -> bool:
        """Whether the value meets the condition."""
        return OPERATORS[self.comparison](value, self.value)


@dataclass(frozen=True)
class OutputFidelity:
    """How close one output is, over all the data.

    `rel_l2` is the L2 norm of the difference over that of the original, `cosine` the cosine between the two
    as one long vector, `snr_db` the signal-to-noise ratio in dB, `top1_agreement` the share of equal argmax
    (last axis; the channel axis for rank 4 and more; equal values for integers), None where there is
    nothing to choose from. `problem` says why the output could not be compared, `unknown` why a comparison
    says nothing: on random inputs, an output that hardly varies.
    """

    name: str
    max_abs: float = 0.0
    rel_l2: float = 0.0
    cosine: float = 1.0
    snr_db: float = IDENTICAL_SNR_DB
    top1_agreement: float | None = None
    problem: str | None = None
    unknown: str | None = None

    def figures(self) -> dict[str, float]:
        """The metrics by the name that tolerances use; without those that do not apply or say nothing."""
        if self.problem or self.unknown:
            return {}
        values = {
            "max_abs": self.max_abs,
            "rel_l2": self.rel_l2,
            "cosine": self.cosine,
            "snr_db": self.snr_db,
            "top1": self.top1_agreement,
        }
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Fidelity:
    """The verdict on all outputs; `failures` has one line for each condition that is not met.

    Without a tolerance it is not judged; `note` says so in a sentence, and `alarming` whether an output is far from
    the original's on the user's data all the same.
    """

    state: State
    note: str
    outputs: dict[str, OutputFidelity]
    alarming: bool = False
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    batches: int = 0

    def __repr__(self) -> str:
        return brief(self, self.state, self.note)

    @property
    def passed(self) -> bool | None:
        """Whether every tolerance is met; None where none was set."""
        return None if self.state == "not judged" else self.state == "passed"


def parse_fidelity(text: str) -> FidelityTolerance:
    """Parse `[output:]metric>=value`; `%` divides by 100.

    >>> parse_fidelity("cosine>=0.99")
    FidelityTolerance(metric='cosine', comparison='>=', value=0.99, output=None)
    >>> str(parse_fidelity("logits:top1 >= 98%"))
    'logits:top1>=0.98'

    Raises `UsageError`, one line, for anything else.
    """
    # The bound keeps the search short; no output's name is that long.
    found = len(text) <= 1000 and re.fullmatch(r"(?:(.+):)?\s*(\w+)\s*(>=|<=|>|<)\s*(\S+?)\s*(%?)\s*", text.strip())
    if not found:
        raise UsageError(f"fidelity {text[:80]!r}: write it as metric>=value, for example cosine>=0.99")
    output, metric, comparison, number, percent = found.groups()
    metric = {"top1_agreement": "top1", "snr": "snr_db"}.get(metric, metric)
    if metric not in METRICS:
        raise UsageError(f"fidelity {text!r}: no metric {metric!r}; there are {', '.join(METRICS)}")
    try:
        value = float(number) / (100 if percent else 1)
    except ValueError:
        raise UsageError(f"fidelity {text!r}: {number!r} is not a number") from None
    if not math.isfinite(value):
        raise UsageError(f"fidelity {text!r}: {number!r} is not a finite number")
    return FidelityTolerance(metric, comparison, value, output)


def fidelity(
    original: ModelLike | Callable[[], ModelLike],
    pruned: ModelLike | Callable[[], ModelLike],
    feeds: Feeds,
    tolerances: Sequence[FidelityTolerance] = (),
    threads: int = 1,
    *,
    given: bool = True,
) -> Fidelity:
    """Run both models over the data, one after the other, and compare their outputs.

    `given` says that the data are the user's own, not made up.
    `feeds` is gone through twice; one batch is in memory at a time and the original's outputs wait in a
    temporary file. New NaN or Inf always fail; outputs whose shape depends on the data are compared where
    the shapes agree. Raises `UsageError` for a tolerance on an output that is not there, `InputError` when
    a model does not run.
    """
    if not callable(feeds):
        held = feeds if not isinstance(feeds, Iterator) else list(feeds)

        def again() -> Iterable[Mapping[str, np.ndarray]]:
            return held
    else:
        again = feeds
    totals: dict[str, _Totals] = {}
    with spilling(), tempfile.TemporaryFile(prefix="hwpass-") as spool:
        counts = []
        for outputs in _run(original, again(), threads):
            counts.append(list(outputs))
            for value in outputs.values():
                _put(spool, value)
        if not counts:
            raise InputError("fidelity: no data; give at least one batch")
        _check_names(tolerances, counts[0])
        spool.seek(0)
        for names, outputs in zip(counts, _run(pruned, again(), threads), strict=True):
            for name in names:
                _totals(totals, name, given).add(_get(spool), outputs.get(name))
    return _judge({name: total.result() for name, total in totals.items()}, tolerances, len(counts), given)


def fidelity_of(
    reference: Sequence[Mapping[str, np.ndarray]],
    candidate: Sequence[Mapping[str, np.ndarray]],
    tolerances: Sequence[FidelityTolerance] = (),
    *,
    given: bool = False,
) -> Fidelity:
    """The same verdict on outputs that were computed before, of random inputs unless they were `given`."""
    totals: dict[str, _Totals] = {}
    _check_names(tolerances, list(reference[0]))
    for wanted, found in zip(reference, candidate, strict=True):
        for name, value in wanted.items():
            _totals(totals, name, given).add(value, found.get(name))
    return _judge({name: total.result() for name, total in totals.items()}, tolerances, len(reference), given)


def _run(
    model: ModelLike | Callable[[], ModelLike], feeds: Iterable[Mapping[str, np.ndarray]], threads: int
) -> Iterator[Feed]:
    session = open_session(model() if callable(model) else model, threads=threads)
    try:
        for feed in feeds:
            yield run_session(session, feed)
    finally:
        del session
        release_memory()


def _put(spool: IO[bytes], value: np.ndarray) -> None:
    if is_float(value.dtype) and value.dtype.kind == "V":  # types of ml_dtypes have no file format
        value = value.astype(np.float32)
    np.lib.format.write_array(spool, value, allow_pickle=True)


def _get(spool: IO[bytes]) -> np.ndarray:
    # written a moment ago by this process to a file without a name
    return np.asarray(np.lib.format.read_array(spool, allow_pickle=True))


@dataclass
class _Totals:
    """Sums over the batches of one output."""

    name: str
    max_abs: float = 0.0
    left: float = 0.0
    right: float = 0.0
    gap: float = 0.0
    dot: float = 0.0
    agreed: int = 0
    compared: int = 0
    problem: str | None = None
    variation: Variation | None = None  # watched on random inputs

    def add(self, wanted: np.ndarray, given: np.ndarray | None) -> None:
        if given is None:
            self.problem = self.problem or "the output is missing"
            return
        if wanted.shape != given.shape:
            self.problem = self.problem or f"shape {list(given.shape)} instead of {list(wanted.shape)}"
            return
        if not (is_float(wanted.dtype) and wanted.dtype.kind != "c"):
            self.agreed += int(np.count_nonzero(wanted == given))
            self.compared += wanted.size
            if wanted.dtype.kind not in "iub":
                return
        self._agreement(wanted, given)
        if self.variation is not None:
            self.variation.add(wanted, _choices_axis(wanted))
        left, right = wanted.astype(np.float64).ravel(), given.astype(np.float64).ravel()
        finite = np.isfinite(left)
        same = np.where(finite, np.isfinite(right), (left == right) | (np.isnan(left) & np.isnan(right)))
        if not same.all():
            bad = int(np.count_nonzero(~same))
            self.problem = self.problem or f"{bad} values are NaN or Inf on one side only"
            return
        left, right = left[finite], right[finite]
        gap = left - right
        self.max_abs = max(self.max_abs, float(np.abs(gap).max(initial=0.0)))
        self.left += float(left @ left)
        self.right += float(right @ right)
        self.gap += float(gap @ gap)
        self.dot += float(left @ right)

    def _agreement(self, wanted: np.ndarray, given: np.ndarray) -> None:
        axis = _choices_axis(wanted)
        if is_float(wanted.dtype) and wanted.ndim >= 2 and wanted.shape[axis] > 1 and wanted.size:
            same = wanted.argmax(axis) == given.argmax(axis)
            self.agreed += int(np.count_nonzero(same))
            self.compared += same.size

    def result(self) -> OutputFidelity:
        norms = math.sqrt(self.left * self.right)
        # of an original of zeros, any difference is all of it
        rel_l2 = math.sqrt(self.gap / self.left) if self.left else float(self.gap > 0)
        snr = IDENTICAL_SNR_DB
        if self.gap:
            snr = 10 * math.log10(self.left / self.gap) if self.left else -IDENTICAL_SNR_DB
        return OutputFidelity(
            self.name,
            max_abs=self.max_abs,
            rel_l2=rel_l2,
            cosine=min(1.0, self.dot / norms) if norms else float(self.left == self.right),
            snr_db=min(snr, IDENTICAL_SNR_DB),
            top1_agreement=self.agreed / self.compared if self.compared else None,
            problem=self.problem,
            unknown=None if self.variation is None else self.variation.nothing(),
        )


def _totals(totals: dict[str, _Totals], name: str, given: bool) -> _Totals:
    if name not in totals:
        totals[name] = _Totals(name, variation=None if given else Variation())
    return totals[name]


def _choices_axis(value: np.ndarray) -> int:
    """The axis that a first choice is made along."""
    return 1 if value.ndim >= 4 else value.ndim - 1


def _check_names(tolerances: Sequence[FidelityTolerance], names: Sequence[str]) -> None:
    for tolerance in tolerances:
        if tolerance.output is not None and tolerance.output not in names:
            there = ", ".join(map(repr, names))
            raise UsageError(f"fidelity {tolerance}: no output {tolerance.output!r}; there are {there}")


def _judge(
    outputs: dict[str, OutputFidelity], tolerances: Sequence[FidelityTolerance], batches: int, given: bool
) -> Fidelity:
    failures: list[str] = []
    warnings: list[str] = []
    for name, item in outputs.items():
        asked = [tolerance for tolerance in tolerances if tolerance.output in (None, name)]
        if item.problem:
            dynamic = item.problem.startswith("shape") and not asked
            (warnings if dynamic else failures).append(f"output {name!r}: {item.problem}")
            continue
        if item.unknown:
            if asked:
                mend = f"give {option('calib')}"
                failures.append(f"output {name!r} cannot be judged by {asked[0]}: {item.unknown}; {mend}")
            continue
        failures += _missed(name, item.figures(), asked)
    for tolerance in tolerances:
        known = [o for o in outputs.values() if not o.unknown]
        if tolerance.output is None and known and not any(tolerance.metric in o.figures() for o in known):
            failures.append(f"no output has {tolerance.metric}, asked for by {tolerance}")
    if failures:
        return Fidelity("failed", "; ".join(failures), outputs, False, failures, warnings, batches)
    if tolerances:
        where = "your data" if given else f"random inputs, which say little; give {option('calib')}"
        met = f"within {', '.join(map(str, tolerances))} on {where}"
        return Fidelity("passed", met, outputs, False, failures, warnings, batches)
    far = _far(outputs) if given else []
    warnings += [f"{text}; fine-tune the model, or ask for less" for text in far]
    note = _note(outputs, far, given)
    return Fidelity("not judged", note, outputs, bool(far), failures, warnings, batches)


def _missed(name: str, figures: Mapping[str, float], asked: Sequence[FidelityTolerance]) -> Iterator[str]:
    """A line for each tolerance that an output's figures miss, or that asks for a figure it has not."""
    for tolerance in asked:
        if tolerance.metric not in figures:
            if tolerance.output is not None:
                yield f"output {name!r} has no {tolerance.metric}, asked for by {tolerance}"
        elif not tolerance.accepts(figures[tolerance.metric]):
            yield (
                f"output {name!r}: {tolerance.metric} is {figures[tolerance.metric]:.4g}, not "
                f"{tolerance.comparison} {tolerance.value:g}"
            )


def _far(outputs: Mapping[str, OutputFidelity]) -> list[str]:
    """A line for each output that is far from the original's."""
    lines = []
    for name, output in outputs.items():
        figures = output.figures()
        bad = [f"cosine {figures['cosine']:.3g}"] if figures.get("cosine", 1.0) < ALARMING["cosine"] else []
        bad += [f"relative L2 error {figures['rel_l2']:.3g}"] if figures.get("rel_l2", 0.0) > ALARMING["rel_l2"] else []
        if bad:
            lines.append(f"output {name!r} is far from the original's on your data: {', '.join(bad)}")
    return lines


def _note(outputs: Mapping[str, OutputFidelity], far: Sequence[str], given: bool) -> str:
    """The sentence of a fidelity that nobody set a tolerance for."""
    apart = [f"output {name!r} could not be compared: {o.problem}" for name, o in outputs.items() if o.problem]
    if given:
        such = in_words("--fidelity 'cosine>=0.95'", "fidelity=['cosine>=0.95']")
        mend = f"no tolerance is set; judge it with {option('fidelity')}, such as {such}"
        return "; ".join([*far, *apart, mend])
    parts = apart + [f"unknown: output {name!r}: {o.unknown}" for name, o in outputs.items() if o.unknown]
    figures = [output.figures() for output in outputs.values() if output.figures()]
    agreed = [f["top1"] for f in figures if "top1" in f]
    if agreed:
        # Rounded down: 100 % is all of them.
        parts.append(f"agrees on {math.floor(100 * min(agreed))} % of first choices on random inputs")
    elif figures:
        parts.append(f"relative L2 error {max(f['rel_l2'] for f in figures):.2g} on random inputs")
    shown = "; ".join(parts[:3]) or "nothing could be compared"
    return f"{shown}{': this says little' if figures else ''}; give {option('calib')}"
