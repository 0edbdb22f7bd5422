"""Stairs of the cost models against independent public simulators: Vela for Ethos-U, SCALE-Sim for systolic arrays.

    python benchmarks/simulators.py [--python PYTHON] [--step 1] [-o rows.jsonl]

PYTHON is an interpreter that has `ethos-u-vela` and `scalesim` (and NumPy below 2.3, which SCALE-Sim 3.0 needs); hwpass
need not be there. One convolution is swept over 8 to 128 channels. A stair is a change by 4 % or more from one width to
the next; found are those of the simulator that the model has too, invented those that only the model has.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import show
from onnx import TensorProto, helper
from public_latency.net import Net
from scipy.stats import spearmanr

from hwpass.cost.prediction import Cost
from hwpass.cost_models import load_target
from hwpass.cost_models.npu import BlockNpu
from hwpass.cost_models.systolic import SystolicArray
from hwpass.coupling.groups import Coupling
from hwpass.workflows.inspect import coupled

#: A smaller change between neighbouring widths is no stair.
STAIR = 0.04
#: Height and width of the feature maps; SCALE-Sim, which follows every element, takes smaller ones.
SIDE, SMALL_SIDE = 32, 8


@dataclass(frozen=True)
class Sweep:
    """What a simulator and the model say of every width."""

    name: str
    widths: Sequence[int]
    simulated: Sequence[float]
    predicted: Sequence[float]

    def stairs(self, values: Sequence[float]) -> set[int]:
        """Widths at which the values change by a stair."""
        found = np.asarray(values, float)
        changes = np.abs(found[1:] / found[:-1] - 1) >= STAIR
        return {self.widths[int(number) + 1] for number in np.flatnonzero(changes)}


def worker(python: str, simulator: str, requests: list[dict[str, Any]]) -> list[Any]:
    """Run a simulator in its own environment."""
    program = Path(__file__).with_name("simulators_worker.py")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "request.json"
        file.write_text(json.dumps(requests), encoding="utf-8")
        command = [python, str(program), simulator, str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{simulator}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return list(json.loads(done.stdout.strip().splitlines()[-1])["found"])


#: Sweeps of one convolution: a name, and its input channels, output channels, window and whether it is depthwise.
SINGLE: list[tuple[str, Callable[[int], tuple[int, int, int, bool]]]] = [
    ("1x1, outputs", lambda c: (64, c, 1, False)),
    ("1x1, inputs", lambda c: (c, 64, 1, False)),
    ("3x3, outputs", lambda c: (64, c, 3, False)),
    ("3x3, inputs", lambda c: (c, 64, 3, False)),
    ("depthwise 3x3", lambda c: (c, c, 3, True)),
]

#: Ethos-U targets: the options of Vela that stand for the same system.
ETHOS = {
    "ethos-u": ("ethos-u55-128", "Ethos_U55_High_End_Embedded", "Shared_Sram"),
    "ethos-u55-256": ("ethos-u55-256", "Ethos_U55_High_End_Embedded", "Shared_Sram"),
    "ethos-u65": ("ethos-u65-256", "Ethos_U65_Embedded", "Shared_Sram"),
}


def ethos(python: str, name: str, widths: Sequence[int]) -> list[Sweep]:
    """Cycles of the unit for one convolution; cycles in all and SRAM of a chain of three with maps of each width."""
    target = load_target(name)
    model = BlockNpu(target)
    accelerator, system, memory = ETHOS[name]
    options = ["--accelerator-config", accelerator, "--config", "Arm/vela.ini", "--system-config", system,
               "--memory-mode", memory, "--optimise", "Performance"]  # fmt: skip
    clock = (target.clock_ghz or 1.0) * 1e9
    sweeps = []
    for label, layer in SINGLE:
        asked = [{"side": SIDE, "layers": [layer(c)], "options": options} for c in widths]
        simulated = [row["unit"] for row in worker(python, "vela", asked)]
        predicted = []
        for c in widths:
            k, n, size, depthwise = layer(c)
            net = Net(k, SIDE)
            net.conv(net.input, n, size, groups=k if depthwise else 1, act="")
            work = net.work()
            predicted.append(float((model.unit_seconds(work) + model.busy(work)).sum()) * clock)
        sweeps.append(Sweep(f"{name}, {label}, cycles of the unit", widths, simulated, predicted))
    chains = [[(16, c, 3, False), (c, c, 3, False), (c, 16, 3, False)] for c in widths]
    rows = worker(python, "vela", [{"side": SIDE, "layers": layers, "options": options} for layers in chains])
    costs = [Cost(chain(layers), target) for layers in chains]
    seconds = [float(model.latency(cost.kernels.work(cost.kernels.dense[None, :])).sum()) for cost in costs]
    sweeps.append(
        Sweep(f"{name}, chain, cycles", widths, [row["cycles"] for row in rows], [s * clock for s in seconds])
    )
    kib = [float(cost(cost.dense[None, :], ("ram",))["ram"][0]) / 1024 for cost in costs]
    sweeps.append(Sweep(f"{name}, chain, SRAM", widths, [row["sram_kib"] for row in rows], kib))
    return sweeps


def chain(layers: Sequence[tuple[int, int, int, bool]]) -> Coupling:
    """A chain of convolutions as a coupled model."""
    nodes, weights = [], []
    for number, (k, n, size, _) in enumerate(layers):
        shape = (n, k, size, size)
        data = np.ones(shape, np.float32).tobytes()
        weights.append(helper.make_tensor(f"w{number}", TensorProto.FLOAT, shape, data, raw=True))
        pads = [size // 2] * 4
        nodes.append(helper.make_node("Conv", [f"x{number}", f"w{number}"], [f"x{number + 1}"], pads=pads))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, channels, SIDE, SIDE))
        for name, channels in (("x0", layers[0][0]), (f"x{len(layers)}", layers[-1][1]))
    ]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    return coupled(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def systolic(python: str, widths: Sequence[int], stationary: str) -> list[Sweep]:
    """Cycles of one convolution on an array of 32 x 32, which loads nothing ahead, over output and input channels."""
    layout = {"rows": 32, "columns": 32, "arrays": 1, "output_stationary": int(stationary == "os"), "overlapped": 0,
              "vector_lanes": 0, "parameter_kib": 0}  # fmt: skip
    model = SystolicArray(load_target("edge-tpu").model_copy(update={"layout": layout}))
    sweeps = []
    for label, layer in SINGLE[:4]:
        nets = []
        for c in widths:
            k, n, size, _ = layer(c)
            net = Net(k, SMALL_SIDE)
            net.conv(net.input, n, size, act="")
            nets.append(net.work())
        products = [[int(work.m[0, 0]), int(work.n[0, 0]), int((work.k * work.taps)[0, 0])] for work in nets]
        array = {"rows": 32, "columns": 32, "dataflow": stationary}
        simulated = worker(python, "scalesim", [{"array": array, "products": products}])[0]
        predicted = [float(model.fold_cycles(work)[0, 0]) for work in nets]
        sweeps.append(Sweep(f"SCALE-Sim 32x32 {stationary}, {label}", widths, simulated, predicted))
    return sweeps


def main() -> None:
    """Sweep, compare, show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=sys.executable, help="an interpreter with ethos-u-vela and scalesim")
    parser.add_argument("--step", type=int, default=1, help="channels between two widths")
    parser.add_argument("--only", nargs="+", choices=[*ETHOS, "ws", "os"], default=[*ETHOS, "ws", "os"])
    parser.add_argument("-o", "--output", type=Path, help="write every width here, as JSON lines")
    options = parser.parse_args()
    widths = list(range(8, 129, options.step))
    sweeps: list[Sweep] = []
    for name in options.only:
        # SCALE-Sim is slow: each multiple of 8, and one channel more.
        few = [c for c in widths if c % 8 < 2]
        sweeps += ethos(options.python, name, widths) if name in ETHOS else systolic(options.python, few, name)
    rows = []
    for sweep in sweeps:
        simulated, predicted = np.array(sweep.simulated), np.array(sweep.predicted)
        theirs, ours = sweep.stairs(sweep.simulated), sweep.stairs(sweep.predicted)
        rows.append([
            sweep.name, len(sweep.widths), f"{spearmanr(simulated, predicted).statistic:.3f}",
            f"{np.median(np.abs(predicted / simulated - 1)):.1%}", f"{len(theirs & ours)} of {len(theirs)}",
            len(ours - theirs), " ".join(map(str, sorted(theirs - ours))) or "-",
        ])  # fmt: skip
    show("stairs", ["sweep", "widths", "Spearman", "error", "found", "invented", "missed at"], rows)
    if options.output is not None:
        with options.output.open("w", encoding="utf-8") as file:
            for sweep in sweeps:
                for width, theirs_at, ours_at in zip(sweep.widths, sweep.simulated, sweep.predicted, strict=True):
                    row = {"sweep": sweep.name, "width": width, "simulated": theirs_at, "predicted": ours_at}
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
