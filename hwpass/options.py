"""What may be asked of a run: one definition for Python, the command line, configuration files, passes and the pages.

A field's metadata says the rest: `help`, how the command line shows its value (`metavar`) and reads it (`kind`), which
commands take it, and whether it says what a pass does, so that the text of a pipeline says it too.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hwpass.errors import UsageError, option
from hwpass.figures import brief, shown

Kind = Literal["budget", "text", "texts", "choice", "flag", "not negative", "channels", "count", "seed", "threads"]
"""How a value is read: a budget is a number or text, given once; `texts` may be given several times."""

#: Where an option stands in the help of a command. Budgets are a group of their own.
Group = Literal["Budget", "Data and accuracy", "Debugging", "Advanced"]

#: How long a run looks for the best: `hwpass.workflows.steps` says what each does.
EFFORTS = ("quick", "normal", "thorough")

#: Commands that prune, and all that judge a model.
PRUNING = ("run", "sweep", "bisect")
JUDGING = ("run", "apply", "verify")
EVERY = ("run", "sweep", "apply", "verify", "bisect")
#: Commands that make a pipeline of a budget, and those that run passes.
MAKING = ("run", "bisect")
RUNNING = ("run", "sweep", "apply", "bisect")

#: Commands that run one pipeline, which can be watched.
WATCHED = ("run", "apply")


def _asked(
    default: Any,
    help: str,
    kind: Kind,
    commands: tuple[str, ...] = MAKING,
    *,
    metavar: str = "",
    choices: tuple[str, ...] = (),
    of_pass: bool = False,
    shown: bool = False,
    also: Mapping[str, str] | None = None,
    group: Group = "Advanced",
) -> Any:
    """A field; `also` has another help for some commands, `shown` says that the default stands in the help."""
    told = {
        "help": help, "kind": kind, "commands": commands, "metavar": metavar, "choices": choices, "of_pass": of_pass,
        "shown": shown, "also": also or {}, "group": "Budget" if kind == "budget" else group,
    }  # fmt: skip
    return field(default=default, metadata=told)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What `hwpass.run` takes besides a model and a target.

    A budget is a share of the dense model (`0.6`, `"0.6x"`) or absolute (`"12ms"`, `"5mJ"`, `"2MiB"`, `"300M"`).
    Values are checked where they are used: when passes are made of them, before a model is touched.
    """

    latency: str | float | None = _asked(
        None, "At most this predicted latency.", "budget", metavar="0.6x|12ms", of_pass=True
    )
    energy: str | float | None = _asked(
        None, "At most this predicted energy per inference.", "budget", metavar="0.7x|5mJ", of_pass=True
    )
    memory: str | float | None = _asked(
        None, "At most this peak memory, weights included.", "budget", metavar="0.8x|2MiB", of_pass=True
    )
    size: str | float | None = _asked(
        None, "At most these bytes of weights.", "budget", metavar="0.5x|4MiB", of_pass=True
    )
    macs: str | float | None = _asked(
        None, "At most these multiply-accumulates.", "budget", metavar="0.5x|300M", of_pass=True
    )
    channels: str | float | None = _asked(
        None, "Uniform width, for comparison.", "budget", metavar="0.7x", of_pass=True
    )
    rtol: float | None = _asked(
        None, "Exactness: largest difference over the magnitude of what is compared. [default: 1e-4]", "not negative",
        EVERY, of_pass=True,
    )  # fmt: skip
    atol: float = _asked(1e-9, "Exactness: difference always allowed.", "not negative", EVERY, of_pass=True, shown=True)
    fidelity: str | Iterable[str] = _asked(
        (), "Tolerance against the original, such as cosine>=0.99. Repeatable.", "texts", JUDGING,
        metavar="METRIC>=X", of_pass=True, group="Data and accuracy",
    )  # fmt: skip
    calib: Any = _asked(
        None, "Inputs to score, compensate and measure fidelity on.", "text", EVERY, metavar="FILE|DIR",
        group="Data and accuracy",
    )  # fmt: skip
    input: str | Iterable[str] = _asked(
        (), "What an input holds, for pictures, sounds, text and made-up inputs: (pixel - mean) / std, or a range; its "
        "layout; or the tokens of a tokenizer.json. Repeatable.", "texts", EVERY,
        metavar="NAME:range=0..255|NAME:mean=0.5,std=0.25|NAME:layout=NHWC|NAME:tokenizer=FILE",
        group="Data and accuracy",
    )  # fmt: skip
    metric: str | Callable[..., Any] | None = _asked(
        None, "A figure of merit: a function of predict, larger is better.", "text", EVERY, metavar="PKG.MOD:FN",
        of_pass=True, group="Data and accuracy",
    )  # fmt: skip
    max_drop: float | None = _asked(
        None, "Largest drop of the metric allowed.", "not negative", JUDGING, metavar="X", of_pass=True,
        also={
            "run": "Largest drop of the metric allowed. Without a budget: the fastest model within it is searched."
        }, group="Data and accuracy",
    )  # fmt: skip
    score: str = _asked(
        "auto", "What makes a channel matter; auto is gram, on made-up inputs without --calib.", "text", PRUNING,
        metavar="NAME", of_pass=True, shown=True,
    )  # fmt: skip
    compensate: str = _asked(
        "auto", "Make good what was removed by least squares on --calib, or on made-up inputs with --score auto.",
        "choice", RUNNING, choices=("auto", "off"), of_pass=True, shown=True,
        group="Data and accuracy",
    )  # fmt: skip
    distill: str | float = _asked(
        "auto", "Train the pruned network towards the original's outputs, on the same inputs as compensation: for one "
        "to four minutes of one core, by what is to be learned, where torch is installed (auto), for about so long, or "
        "not at all.", "text",
        ("run", "apply", "bisect"), metavar="auto|off|60s", of_pass=True, shown=True, group="Data and accuracy",
    )  # fmt: skip
    effort: str = _asked(
        "normal", "How long to look for the best: quick measures on few inputs and does not train, thorough tries more "
        "plans and trains five to twenty minutes.", "choice", RUNNING, choices=EFFORTS, of_pass=True,
        shown=True, group="Data and accuracy",
    )  # fmt: skip
    prune_vocabulary: bool = _asked(
        False, "Drop rows of embedding tables that no sample of --calib looks up; their tokens take the nearest row "
        "that is left.", "flag", ("run", "apply", "bisect"), of_pass=True, group="Data and accuracy",
    )  # fmt: skip
    also: str | Iterable[str] = _asked(
        (), "What may help to meet the budget besides fewer channels: factorize (lower rank), quantize (integers). "
        "Mixes are tried, and the one kept that loses least on samples set apart. Repeatable.", "texts", ("run",),
        metavar="factorize|quantize", of_pass=True,
    )  # fmt: skip
    quantize: str = _asked(
        "off", "Number formats at the end: int8 weights and activations, int8 of matrix products as inputs come "
        "(dynamic), weights of 4 bits alone, or fp16. Layers that lose too much stay as they are.", "choice",
        choices=("off", "int8", "dynamic", "int4-weights", "fp16"), of_pass=True, shown=True, group="Data and accuracy",
    )  # fmt: skip
    keep: str | Iterable[str] = _asked(
        (), "Layers whose channels all stay. Repeatable.", "texts", PRUNING, metavar="GLOB", of_pass=True
    )
    min_channels: int = _asked(
        1, "Fewest of a group; above 1 no whole branch goes.", "channels", PRUNING, of_pass=True, shown=True
    )
    align: int | None = _asked(None, "Channel step; the target's by default.", "channels", PRUNING, of_pass=True)
    dtype: str | None = _asked(
        None, "The number format to price the model in; its own by default, or what the target has in its place.",
        "choice", RUNNING, choices=("fp32", "fp16", "int8"),
    )  # fmt: skip
    dim: str | Iterable[str] = _asked(
        (), "The size of a dynamic axis, or a range: costs are those of the largest. Repeatable.", "texts",
        RUNNING, metavar="N=8|N=1..8",
    )  # fmt: skip
    pipeline: str | Sequence[Any] | None = _asked(
        None, "Run these passes instead of the usual ones; see `hwpass passes`.", "text", metavar="TEXT"
    )
    preset: bool = _asked(
        False, "Run the target's own pipeline instead of the usual one; see `hwpass passes --preset TARGET`.", "flag",
        ("run",),
    )  # fmt: skip
    seed: int = _asked(
        0, "Seed of random inputs.", "seed", EVERY, shown=True,
        also=dict.fromkeys(PRUNING, "Seed of random inputs and scores."),
    )  # fmt: skip
    threads: int = _asked(
        1, "Threads to compute with.", "threads", EVERY, shown=True,
        also=dict.fromkeys(
            RUNNING, "Threads to compute with; above 1 the target is priced with as many."
        ),
    )  # fmt: skip
    allow_external: bool = _asked(
        False, "Read the model's external data wherever it lies, not only in its folder.", "flag", EVERY
    )
    force: bool = _asked(
        False, "Keep the best effort when the budget cannot be met (status stays 4), and what made-up inputs show to "
        "be ruined.", "flag",
    )  # fmt: skip
    unproved: bool = _asked(
        False, "Accept a result that is not proved: no verify in the pipeline, a tuned model.", "flag", JUDGING
    )

    verify_each: bool = _asked(
        False, "Prove every pass by itself as soon as it ran, and stop at the first whose proof fails.", "flag",
        WATCHED, group="Debugging",
    )  # fmt: skip
    measure_each: bool = _asked(
        False, "Also run the model after every pass that changes it, and show the error against the original on "
        "--calib beside its costs.", "flag", WATCHED,
        group="Debugging",
    )  # fmt: skip
    print_after: str | Iterable[str] = _asked(
        (), "Print on standard error how the graph differs after a pass, after all, or after those that change it. "
        "Repeatable.", "texts", WATCHED, metavar="NAME|all|change", group="Debugging",
    )  # fmt: skip
    save_after: str | os.PathLike[str] | None = _asked(
        None, "Write the model after every pass that changes it to DIR, as NN-pass.onnx.", "text", WATCHED,
        metavar="DIR", group="Debugging",
    )  # fmt: skip
    pass_limit: int | None = _asked(
        None, "Run only the first N passes that may change the model, and those that judge it.", "count", WATCHED,
        metavar="N", group="Debugging",
    )  # fmt: skip
    reproducer: str | os.PathLike[str] | None = _asked(
        None, "Where a pass fails, or its proof: write the least that shows it to a new folder, for `hwpass replay`.",
        "text", WATCHED, metavar="DIR", group="Debugging",
    )  # fmt: skip
    keep_last_good: str | os.PathLike[str] | None = _asked(
        None, "Where a pass fails, or its proof: write the model before it to OUT.", "text", WATCHED, metavar="OUT",
        group="Debugging",
    )  # fmt: skip

    def __repr__(self) -> str:
        asked = (item for item in dataclasses.fields(self) if getattr(self, item.name) is not item.default)
        told = [f"{item.name}={shown(getattr(self, item.name), 40)}" for item in asked]
        return brief(self, *told)

    def given(self, names: Iterable[str]) -> dict[str, Any]:
        """Some of the values by name."""
        return {name: getattr(self, name) for name in names}


def of_command(command: str) -> Iterator[dataclasses.Field[Any]]:
    """The options that a command takes, in order."""
    return (item for item in dataclasses.fields(RunOptions) if command in item.metadata["commands"])


def left_out(item: dataclasses.Field[Any], value: Any) -> bool:
    """Whether an option has its default; an array, which is compared entry by entry, is none."""
    return value is item.default or (value == item.default) is True


def chosen(command: str, options: RunOptions | None, asked: Mapping[str, Any]) -> RunOptions:
    """Options of a command, with some of them given by name. Raises UsageError for one that it does not take, and
    TypeError for a name that is none."""
    found = dataclasses.replace(options or RunOptions(), **asked)
    taken = {item.name for item in of_command(command)}
    for item in dataclasses.fields(RunOptions):
        value = getattr(found, item.name)
        if item.name not in taken and not left_out(item, value):
            raise UsageError(f"{option(item.name)} has no effect on {command}; leave it out")
    return found


def signature(function: Callable[..., Any], command: str) -> inspect.Signature:
    """The signature of a function whose `asked` are the options of a command: what editors and `help` show."""
    plain = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
    named = [
        inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=item.default, annotation=item.type)
        for item in of_command(command)
    ]
    return inspect.signature(function).replace(parameters=[*plain, *named])


def of_passes() -> tuple[str, ...]:
    """The names of the options that say what passes do."""
    return tuple(item.name for item in dataclasses.fields(RunOptions) if item.metadata["of_pass"])


def pass_option(name: str, default: Any, unset: str = "", **more: Any) -> Any:
    """The field of a pass for an option: the same help, and what its default stands for; `more` is other metadata."""
    told = next(item for item in dataclasses.fields(RunOptions) if item.name == name).metadata["help"]
    text = told.removesuffix(".").removesuffix(". Repeatable").removesuffix(". [default: 1e-4]")
    text = text.replace("--", "")
    return field(default=default, metadata={"help": f"{text[0].lower()}{text[1:]}{unset and f'; {unset}'}", **more})
