"""Cases: what to run, and the files that it reads, made from a number alone."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from graphs import build
from sketch import Sketch
from witnesses import WITNESSES, models

from hwpass.coupling.groups import couple
from hwpass.manager import PassManager, passes
from hwpass.model.model import Model
from hwpass.planning.plan import Plan
from hwpass.workflows.steps import PREPARE

from .mutation import WORDS, mutated_bytes, mutated_json, mutated_model, mutated_text

TARGETS = Path(__file__).parent.parent.parent / "cost_models" / "targets"
#: What makes a run short: nothing is studied on made-up inputs, nothing refitted.
FAST = ["--target", "mobile-cpu", "--macs", "0.6x", "--score", "l2", "--compensate", "off"]


@dataclass(frozen=True)
class Case:
    """Arguments of the command line, the files in the folder that it runs in, and what it has to write at status 0."""

    number: int
    kind: str
    arguments: tuple[str, ...]
    files: dict[str, bytes] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    stdin: bytes = b""


#: The passes before a plan, as text.
PREPARATION = ",".join(map(str, PREPARE))

KINDS: dict[str, tuple[int, Callable[[int, random.Random], Case]]] = {}


def kind(share: int) -> Callable[[Callable[[int, random.Random], Case]], Callable[[int, random.Random], Case]]:
    """Enter a maker of cases under its name; `share` says how often it is drawn."""

    def enter(make: Callable[[int, random.Random], Case]) -> Callable[[int, random.Random], Case]:
        KINDS[make.__name__] = share, make
        return make

    return enter


def case_of(number: int, only: str | None = None) -> Case:
    """The case of a number; `only` names the kind."""
    r = random.Random(number)
    name = only or r.choices(list(KINDS), [share for share, _ in KINDS.values()])[0]
    return KINDS[name][1](number, r)


def small(r: random.Random) -> onnx.ModelProto:
    """A small valid model: a witness of some operator's rule, or a random graph of many."""
    if r.random() < 0.7:
        found = list(models(r.choice(sorted(WITNESSES))))
        return r.choice(found)[1]
    steps = [(r.randrange(161), max(0, r.randrange(6) - 3), r.randrange(10_000)) for _ in range(r.randrange(1, 12))]
    return build((r.randrange(11, 22), r.randrange(40), r.randrange(10_000), tuple(steps)))


@cache
def network() -> onnx.ModelProto:
    """Three convolutions, a norm and a classifier: the valid model beside which other files are wrong."""
    s = Sketch()
    h = s.op("Relu", s.conv(s.input(["N", 3, 8, 8], "image"), 16, 3, kernel=3, bias=True))
    h = s.op("Relu", s.batch_norm(s.conv(h, 24, 16), 24))
    h = s.op("Add", h, s.conv(h, 24, 24, kernel=3, pads=[1, 1, 1, 1]))
    s.output(s.linear(s.op("Flatten", s.op("GlobalAveragePool", h)), 24, 5))
    return s.model()


@cache
def plan() -> dict[str, Any]:
    """A plan of `network` that keeps two thirds of every group, as JSON."""
    coupling = couple(PassManager(PREPARE).run(Model.load(network())))
    kept = [np.arange(max(1, group.width * 2 // 3)) for group in coupling.groups]
    data: dict[str, Any] = json.loads(Plan.of(coupling, kept, PREPARATION).to_json())
    return data


@kind(10)
def model(number: int, r: random.Random) -> Case:
    """A model that is broken, or odd."""
    data = mutated_model(r, small(r))
    run = ["run", "m.onnx", *FAST, "-o", "out.onnx"]
    outputs: tuple[str, ...] = ("out.onnx",)
    other = [["groups", "m.onnx"], ["profile", "m.onnx", "--target", "server-cpu"], ["verify", "m.onnx", "m.onnx"],
             ["run", "m.onnx", "--target", "server-cpu", "--latency", "0.8x"],
             ["run", "-", *FAST, "--json", "r.json"]]  # fmt: skip
    arguments = run if r.random() < 0.6 else r.choice(other)
    if arguments is not run:
        outputs = ("r.json",) if "r.json" in arguments else ()
    return Case(number, "model", tuple(arguments), {"m.onnx": data}, outputs, data if "-" in arguments else b"")


@kind(3)
def plans(number: int, r: random.Random) -> Case:
    """A plan that is broken, or of another model."""
    value: Any = plan()
    for _ in range(r.choice((0, 1, 1, 2, 3))):
        value = mutated_json(r, value)
    data = json.dumps(value, indent=r.choice((None, 1))).encode()
    if r.random() < 0.25:
        data = mutated_bytes(r, data)
    files = {"p.json": data, "m.onnx": network().SerializeToString()}
    if r.random() < 0.3:
        return Case(number, "plans", ("verify", "m.onnx", "m.onnx", "--plan", "p.json"), files)
    through = r.random() < 0.2
    steps = f"{PREPARATION},apply-plan{{plan=p.json}},verify"
    pipeline = ["run", "m.onnx", "--target", "mobile-cpu", "--pipeline", steps]
    arguments = pipeline if through else ["apply", "p.json", "m.onnx", "--compensate", "off"]
    if not through and r.random() < 0.3:
        arguments += ["--target", "server-cpu", "--json", "r.json"]
    return Case(number, "plans", (*arguments, "-o", "out.onnx"), files, ("out.onnx",))


@kind(3)
def target(number: int, r: random.Random) -> Case:
    """A target file that is broken."""
    text = (TARGETS / r.choice(["mobile-cpu.toml", "server-cpu.toml"])).read_text(encoding="utf-8")
    data = mutated_text(r, text).encode("utf-8", "surrogatepass")
    if r.random() < 0.2:
        data = mutated_bytes(r, data)
    files = {"t.toml": data, "m.onnx": network().SerializeToString()}
    if r.random() < 0.5:
        return Case(number, "target", ("profile", "m.onnx", "--target", "t.toml"), files)
    fast = ["t.toml" if word == "mobile-cpu" else word for word in FAST]
    return Case(number, "target", ("run", "m.onnx", *fast, "-o", "out.onnx"), files, ("out.onnx",))


@kind(2)
def calibration(number: int, r: random.Random) -> Case:
    """Calibration data that is broken, or of another model."""
    usual = r.random() < 0.6
    shape = (8, 3, 8, 8) if usual else r.choice([(3, 8, 8), (1, 3, 8, 8), (0, 3, 8, 8), (8, 3, 9, 8), (), (8,)])
    values = np.random.default_rng(number).normal(size=shape)
    if values.size and r.random() < 0.2:
        values.reshape(-1)[0] = r.choice((np.nan, np.inf, 1e300))
    dtype = "float32" if usual else r.choice("float64 float16 int8 complex64 bool U8 object >f4".split())
    with np.errstate(all="ignore"):
        array = np.asarray(values).astype(dtype)
    files = {"m.onnx": network().SerializeToString()}
    stream = io.BytesIO()
    name = "image" if usual else r.choice(["image", "other", "", "a/b"])
    if r.random() < 0.6:
        save = r.choice([np.savez, np.savez_compressed])
        arrays: dict[str, Any] = {name or "image": array}
        save(stream, **arrays)
        files[where := "c.npz" if usual else r.choice(["c.npz", "c.npy", "c.txt"])] = _perhaps(r, stream.getvalue())
    else:
        np.save(stream, array)
        where = r.choice(["d", "d", "c.npy"])
        inside = f"{name.replace('/', '_') or 'image'}.npy"
        files[where if where == "c.npy" else f"d/{inside}"] = _perhaps(r, stream.getvalue())
    more = ["--score", r.choice(["l2", "activation", "auto"]), "--compensate", r.choice(["auto", "off"])]
    arguments = ["run", "m.onnx", "--target", "mobile-cpu", "--macs", "0.6x", "--calib", where, *more, "-o", "out.onnx"]
    return Case(number, "calibration", tuple(arguments), files, ("out.onnx",))


def _perhaps(r: random.Random, data: bytes) -> bytes:
    return mutated_bytes(r, data) if r.random() < 0.5 else data


VALUES = ("", "0", "1", "-1", "3", "0.5", "0.5x", "0.7x", "nan", "inf", "1e999", "1ms", "5mJ", "1MiB", "true", "no",
          "l2", "cosine>=0.1", "top1>=2", "a|b", "*", "Conv*", '"a,b"', '"', "{", "json:loads", "nowhere:fn", "a b",
          "é", "\x1b[31m", "9" * 400, "|" * 300)  # fmt: skip


@kind(3)
def pipeline(number: int, r: random.Random) -> Case:
    """A pipeline that makes little sense."""
    known = passes()
    parts = []
    for _ in range(r.choice((1, 1, 2, 3, 4, 8))):
        name = r.choice(list(known)) if r.random() < 0.9 else r.choice(("", "flod", "é", "-"))
        fields = [f for f in getattr(known.get(name), "__dataclass_fields__", {})] or ["limit"]
        options = [
            f"{r.choice(fields).replace('_', '-')}={r.choice(VALUES)}" for _ in range(r.choice((0, 0, 1, 1, 2, 3)))
        ]
        parts.append(name + ("{" + ",".join(options) + "}" if options else ""))
    text = ",".join(parts)
    if r.random() < 0.3:
        text = mutated_text(r, text).replace("\0", "")
    arguments = ["run", "m.onnx", "--target", "mobile-cpu", f"--pipeline={text}", "-o", "out.onnx"]
    return Case(number, "pipeline", tuple(arguments), {"m.onnx": network().SerializeToString()}, ("out.onnx",))


COMMANDS: dict[str, list[str]] = {
    "run": ["m.onnx"], "sweep": ["m.onnx"], "profile": ["m.onnx"], "groups": ["m.onnx"], "apply": ["p.json", "m.onnx"],
    "verify": ["m.onnx", "m.onnx"], "targets": [], "passes": [], "": [], "prune": ["m.onnx"],
}  # fmt: skip
OPTIONS = ("latency energy memory size macs channels score compensate keep min-channels align rtol atol fidelity metric"
           " max-drop seed threads target points budget why calib plan json report output pipeline dry-run force"
           " help version mac").split()  # fmt: skip
GIVEN = {
    "target": ("mobile-cpu", "server-cpu", "mobil", "t.toml", "m.onnx", ".", ""),
    "output": ("out.onnx", "o.onnx", "m.onnx", "no/out.onnx", ".", ""), "json": ("r.json", "m.onnx", "no/r.json"),
    "report": ("r.html", "no/r.html"), "plan": ("q.json", "p.json"), "threads": ("1", "2", "0", "-1", "x"),
    "calib": ("m.onnx", "no.npz", ".", "p.json"), "seed": ("0", "-1", str(2**70), "x"),
    "points": ("0.5", "0.9,0.5", "", "nan", "0.5,,", "2", ",".join(["0.5"] * 50)),
    "score": ("l2", "l1", "random", "bn", "l9"),
    "compensate": ("off", "auto", "on"), "budget": ("macs", "size", "speed"), "why": ("Conv_conv3", "no", ""),
    "align": ("1", "8", "0", "100000", str(2**70)), "min-channels": ("1", "4", "0", "100000", str(2**70)),
}  # fmt: skip
FLAGS = ("dry-run", "force", "help", "version")


@kind(4)
def options(number: int, r: random.Random) -> Case:
    """Options of the command line that make little sense, or conflict."""
    command = r.choice(list(COMMANDS)[:3] * 4 + list(COMMANDS))
    arguments = [command, *COMMANDS[command]] if command else []
    if command in ("run", "sweep", "profile") and r.random() < 0.9:
        arguments += ["--target", "mobile-cpu"]
    if command in ("run", "sweep") and r.random() < 0.9:
        arguments += ["--score", "l2", "--compensate", "off"]
    if command == "sweep" and r.random() < 0.8:
        arguments += ["--points", "0.7,0.5"]
    if command in ("run", "apply") and r.random() < 0.8:
        arguments += ["-o", "out.onnx", *(["--macs", "0.7x"] if command == "run" and r.random() < 0.7 else [])]
    for _ in range(r.choice((0, 1, 1, 2, 3, 5))):
        option = r.choice(OPTIONS)
        value = r.choice(GIVEN.get(option, VALUES)) if r.random() < 0.95 else r.choice(WORDS).replace("\0", "")
        arguments += [f"--{option}"] if option in FLAGS else [f"--{option}", value]
    if arguments and r.random() < 0.1:
        r.shuffle(arguments)
    files = {"m.onnx": network().SerializeToString(), "p.json": json.dumps(plan()).encode()}
    return Case(number, "options", tuple(arguments), files)
