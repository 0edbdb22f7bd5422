"""The second verdict: how close the rewritten model is to the original, on data."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Literal

import numpy as np

from hwpass.errors import InputError, UsageError, in_words, option
from hwpass.figures import brief
from hwpass.files.whole_files import spilling
from hwpass.runtime.inputs import is_float
from hwpass.runtime.memory import release_memory
from hwpass.runtime.sessions import Feed, ModelLike, open_session, run_session
from hwpass.spans import span
from hwpass.verdicts.predicted_drop import Choices, PredictedDrop
from hwpass.verdicts.states import State
from hwpass.verdicts.tolerances import FidelityTolerance
from hwpass.verdicts.variation import Variation

IDENTICAL_SNR_DB = 200.0
"""What the signal-to-noise ratio of identical outputs is given as, so that figures stay finite."""

ALARMING = {"cosine": 0.95, "rel_l2": 0.3, "drop": 0.1}
"""Where an output counts as far from the original's on the user's data: below this cosine, above this relative L2, or
with more accuracy than this predicted to be lost."""

On = Literal["given", "fitted", "made up", "random"]
"""What a model is compared on: the user's data, those on which it was fitted too, inputs made up for the model that no
fit has seen, or random ones."""

WORDS: dict[On, str] = {
    "given": "your data",
    "fitted": "your data, on which the model was fitted too",
    "made up": "made-up inputs",
    "random": "random inputs",
}

RUINED = 0.5
"""A drop of accuracy beyond which a result made without data is no use as it is."""

Feeds = Iterable[Mapping[str, np.ndarray]] | Callable[[], Iterable[Mapping[str, np.ndarray]]]


@dataclass(frozen=True)
class OutputFidelity:
    """How close one output is, over all the data.

    `rel_l2` is the L2 norm of the difference over that of the original, `cosine` the cosine between the two
    as one long vector, `snr_db` the signal-to-noise ratio in dB, `top1_agreement` the share of equal argmax
    (last axis; the channel axis for rank 4 and more; equal values for integers), None where there is
    nothing to choose from; `drop` is how far accuracy is predicted to fall where classes are told apart on the user's
    data. `problem` says why the output could not be compared, `unknown` why a comparison
    says nothing: on random inputs, an output that hardly varies.
    """

    name: str
    max_abs: float = 0.0
    rel_l2: float = 0.0
    cosine: float = 1.0
    snr_db: float = IDENTICAL_SNR_DB
    top1_agreement: float | None = None
    drop: PredictedDrop | None = None
    problem: str | None = None
    unknown: str | None = None

    def reported(self) -> dict[str, float]:
        """The same with the interval of the predicted drop."""
        bounds = {} if self.drop is None else {"drop_low": self.drop.low, "drop_high": self.drop.high}
        return {**self.figures(), **bounds} if self.figures() else {}

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
            "drop": None if self.drop is None else self.drop.expected,
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


@span("fidelity")
def fidelity(
    original: ModelLike | Callable[[], ModelLike],
    pruned: ModelLike | Callable[[], ModelLike],
    feeds: Feeds,
    tolerances: Sequence[FidelityTolerance] = (),
    threads: int = 1,
    *,
    on: On = "given",
    accepted: bool = False,
) -> Fidelity:
    """Run both models over the data, one after the other, and compare their outputs.

    `on` says what the data are. A drop on made-up inputs that ruins the model fails, unless that is `accepted` or a
    tolerance says what is asked.
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
                _totals(totals, name, on).add(_get(spool), outputs.get(name))
    found = {name: total.result() for name, total in totals.items()}
    return _judge(found, tolerances, len(counts), on, accepted)


@span("fidelity")
def fidelity_of(
    reference: Sequence[Mapping[str, np.ndarray]],
    candidate: Sequence[Mapping[str, np.ndarray]],
    tolerances: Sequence[FidelityTolerance] = (),
    *,
    on: On = "random",
) -> Fidelity:
    """The same verdict on outputs that were computed before."""
    totals: dict[str, _Totals] = {}
    _check_names(tolerances, list(reference[0]))
    for wanted, found in zip(reference, candidate, strict=True):
        for name, value in wanted.items():
            _totals(totals, name, on).add(value, found.get(name))
    return _judge({name: total.result() for name, total in totals.items()}, tolerances, len(reference), on)


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
    choices: Choices | None = None  # watched on the user's data

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
            if self.choices is not None:
                self.choices.add(wanted, given, axis)

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
            drop=None if self.choices is None else self.choices.result(),
            problem=self.problem,
            unknown=None if self.variation is None else self.variation.nothing(),
        )


def _totals(totals: dict[str, _Totals], name: str, on: On) -> _Totals:
    if name not in totals:
        mine = on in ("given", "fitted")
        choices = None if on == "random" else Choices(made_up=on == "made up")
        totals[name] = _Totals(name, variation=None if mine else Variation(), choices=choices)
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
    outputs: dict[str, OutputFidelity],
    tolerances: Sequence[FidelityTolerance],
    batches: int,
    on: On,
    accepted: bool = False,
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
    ruined = [] if tolerances or on != "made up" else _far(outputs, on, {"drop": RUINED})
    if not accepted:
        mend = f"give real inputs with {option('calib')}, say what they are with {option('input')}, ask for less, or"
        failures += [f"{text}; {mend} take it all the same with {option('force', True)}" for text in ruined]
    if failures:
        return Fidelity("failed", "; ".join(failures), outputs, False, failures, warnings, batches)
    if tolerances:
        little = "" if on in ("given", "fitted") else f", which say little; give {option('calib')}"
        met = f"within {', '.join(map(str, tolerances))} on {WORDS[on]}{little}"
        return Fidelity("passed", met, outputs, False, failures, warnings, batches)
    far = [] if on == "random" else _far(outputs, on, ALARMING if on != "made up" else {"drop": ALARMING["drop"]})
    mend = "fine-tune the model, or ask for less" if on != "made up" else f"give {option('calib')}, or ask for less"
    warnings += [f"{text}; {mend}" for text in far]
    return Fidelity("not judged", _note(outputs, far, on), outputs, bool(far), failures, warnings, batches)


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


def _far(outputs: Mapping[str, OutputFidelity], on: On, bounds: Mapping[str, float]) -> list[str]:
    """A line for each output that is further from the original's than some bounds."""
    lines = []
    for name, output in outputs.items():
        figures = output.figures()
        bad = [f"cosine {figures['cosine']:.3g}"] if figures.get("cosine", 1.0) < bounds.get("cosine", -1.0) else []
        if figures.get("rel_l2", 0.0) > bounds.get("rel_l2", math.inf):
            bad.append(f"relative L2 error {figures['rel_l2']:.3g}")
        if output.drop is not None and output.drop.expected > bounds["drop"]:
            bad.append(str(output.drop))
        if bad:
            lines.append(f"output {name!r} is far from the original's on {WORDS[on]}: {', '.join(bad)}")
    return lines


def _note(outputs: Mapping[str, OutputFidelity], far: Sequence[str], on: On) -> str:
    """The sentence of a fidelity that nobody set a tolerance for."""
    apart = [f"output {name!r} could not be compared: {o.problem}" for name, o in outputs.items() if o.problem]
    named = [f"output {name!r}: " if len(outputs) > 1 else "" for name in outputs]
    drops = [f"{who}{o.drop}" for who, o in zip(named, outputs.values(), strict=True) if o.drop and not far][:3]
    if on in ("given", "fitted"):
        fitted = [f"measured on {WORDS[on]}"] if on == "fitted" else []
        such = in_words("--fidelity 'cosine>=0.95'", "fidelity=['cosine>=0.95']")
        mend = f"no tolerance is set; judge it with {option('fidelity')}, such as {such}"
        return "; ".join([*far, *drops, *apart, *fitted, mend])
    parts = [*far, *drops, *apart, *(f"unknown: output {n!r}: {o.unknown}" for n, o in outputs.items() if o.unknown)]
    figures = [output.figures() for output in outputs.values() if output.figures()]
    agreed = [f["top1"] for f in figures if "top1" in f]
    if agreed:
        # Rounded down: 100 % is all of them.
        parts.append(f"agrees on {math.floor(100 * min(agreed))} % of first choices on {WORDS[on]}")
    elif figures:
        parts.append(f"relative L2 error {max(f['rel_l2'] for f in figures):.2g} on {WORDS[on]}")
    shown = "; ".join(parts[:3]) or "nothing could be compared"
    return f"{shown}{': this says little' if figures else ''}; give {option('calib')}"
