"""How true is a target that `hwpass calibrate` made of this machine? Unseen networks, widths, and pruning.

    python benchmarks/local_target.py latency --zoo ZOO [--target FILE.toml] [--only NET ...]
    python benchmarks/local_target.py widths --zoo ZOO [--target FILE.toml]
    python benchmarks/local_target.py pruned --zoo ZOO [--target FILE.toml]

Without `--target` this machine is calibrated first. `latency` measures thirty networks, `widths` six at eight uniform
widths each, on and off the blocks of layouts, `pruned` ten that are pruned to half of the predicted latency. ZOO is a
folder with graphs/ and load.py. Sessions are kept in `--log`, so that a run that was cut short goes on.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from common import show, zoo_module
from public_latency.scores import Pair, Row, ratios, score

from hwpass.context import Context
from hwpass.cost.bench import save_feed
from hwpass.cost.measuring import Log, Measurement, measure_rounds, steady
from hwpass.cost.prediction import Cost
from hwpass.cost_models import Target, load_target
from hwpass.manager import PassManager
from hwpass.model.model import Model
from hwpass.passes.prune_channels import PruneChannels
from hwpass.runners.runner import Job, runner_for
from hwpass.runtime.inputs import input_specs, make_inputs
from hwpass.workflows.calibrate import calibrate
from hwpass.workflows.inspect import coupled
from hwpass.workflows.steps import PREPARE

NETS = """
    tv_resnet18 tv_resnet34 tv_resnet50 tv_resnext50_32x4d tv_mobilenet_v2 tv_mobilenet_v3_large
    tv_efficientnet_b0 tv_efficientnet_b3 tv_shufflenet_v2_x1_0 tv_shufflenet_v2_x1_5 tv_densenet121
    tv_densenet169 tv_alexnet tv_swin_t tv_vgg11_bn timm_convnext_atto timm_deit_small_distilled_patch16_224
    timm_regnetx_002 timm_regnetv_040 timm_mambaout_femto timm_hardcorenas_a timm_fasternet_t0 timm_starnet_s1
    timm_repghostnet_080 timm_dla34 timm_resnetv2_18 timm_ese_vovnet19b_slim_dw timm_cspnext_tiny
    timm_hgnet_tiny timm_skresnet18
""".split()
WIDE = ("tv_mobilenet_v2", "tv_resnet18", "tv_resnet50", "tv_efficientnet_b0", "timm_regnetx_002", "tv_densenet121")
#: Of every group, and whether rounded to the target's step.
WIDTHS = ((0.9, False), (0.8, False), (0.75, False), (0.6, False), (0.5, False), (0.9, True), (0.75, True), (0.5, True))
PRUNED = """tv_mobilenet_v2 tv_mobilenet_v3_large tv_efficientnet_b0 timm_mambaout_femto tv_resnet18 tv_resnet50
    timm_regnetx_002 tv_vgg11_bn timm_deit_small_distilled_patch16_224 tv_swin_t""".split()


class Bench:
    """Models by name, predicted by the target and measured in rounds."""

    def __init__(self, options: argparse.Namespace, target: Target, folder: Path) -> None:
        self.options, self.target, self.folder = options, target, folder
        self.runner = runner_for(options.runner)
        about = {"models": "networks", "runner": self.runner.describe(), "cpu_time": options.cpu_time}
        self.log = Log(about, options.log)
        if options.log is not None and options.log.is_file():
            self.log.read()
        else:
            self.log.start()
        self.jobs: list[Job] = []
        self.predicted: dict[str, float] = {}
        self.macs: dict[str, float] = {}
        self.interval: dict[str, tuple[float, float]] = {}

    def add(self, name: str, model: onnx.ModelProto) -> None:
        """Predict a model, and line it up."""
        cost = Cost(coupled(model), self.target)
        self.predicted[name], self.macs[name] = cost.base["latency"], cost.base["macs"]
        interval = cost.interval(cost.dense)
        if interval is not None:
            self.interval[name] = interval
        path, feed = self.folder / f"{name}.onnx", self.folder / f"{name}.npz"
        onnx.save(model, path)
        specs = input_specs(model)
        batch = {size: 1 for spec in specs for size in spec.shape if isinstance(size, str)}
        save_feed(feed, make_inputs(specs, batch, 0))
        cpu_time = self.options.cpu_time
        self.jobs.append(Job(name, path, feed, self.options.runs, 1, cpu_time, timeout=120, warm_up=0.1))

    def measure(self) -> dict[str, Measurement]:
        """Rounds of all that was lined up."""
        measure_rounds(self.runner, self.jobs, self.log, float("inf"), rounds=self.options.rounds)
        for name, reason in self.log.failures.items():
            print(f"{name}: {reason}")
        return self.log.measurements()

    def repeatability(self) -> float:
        """What medians of odd rounds differ by from those of even ones, in the median model."""
        names = [job.name for job in self.jobs if len(self.log.sessions.get(job.name, {})) > 1]
        rounds = sorted({number for name in names for number in self.log.sessions[name]})
        table = steady(np.array([[np.log(self.log.sessions[n].get(r, np.nan)) for r in rounds] for n in names]))
        odd, even = np.nanmedian(table[:, 1::2], axis=1), np.nanmedian(table[:, ::2], axis=1)
        off = odd - even
        return float(np.nanmedian(np.abs(off - np.nanmedian(off))))


def latency(bench: Bench, zoo: Path) -> None:
    """Networks not used in the calibration."""
    for name, model in models(zoo, bench.options.only or NETS):
        bench.add(name, model)
    found = bench.measure()
    rows = [
        Row("here", name, found[name].seconds, bench.predicted[name], bench.macs[name],
            low=bench.interval.get(name, (None,))[0], high=bench.interval.get(name, (None, None))[1])
        for name in bench.predicted if name in found
    ]  # fmt: skip
    result = score(rows)
    assert result is not None
    ratio = np.array([row.predicted / row.measured for row in rows])
    middle = float(np.median(ratio))
    each = [[r.network, f"{r.measured * 1e3:.2f}", f"{r.predicted * 1e3:.2f}", f"{x:.2f}", f"{x / middle - 1:+.1%}"]
            for r, x in sorted(zip(rows, ratio, strict=True), key=lambda pair: pair[1])]  # fmt: skip
    show("networks", ["network", "measured ms", "predicted ms", "ratio", "after one scale"], each)
    held = "-" if result.held is None else f"{result.held:.0%}"
    show(
        f"{bench.target.name}: {len(rows)} networks",
        ["Spearman", "by MACs", "error", "one scale", "by MACs", "in 10 %", "in 20 %", "interval holds",
         "repeatability"],
        [[f"{result.spearman:.3f}", f"{result.spearman_macs:.3f}", f"{result.absolute:.1%}", f"{result.scaled:.1%}",
          f"{result.scaled_macs:.1%}", f"{result.within_10:.0%}", f"{result.within_20:.0%}", held,
          f"{bench.repeatability():.1%}"]],
    )  # fmt: skip


def widths(bench: Bench, zoo: Path) -> None:
    """Networks at uniform widths, against themselves at full width."""
    pairs = []
    for name, model in models(zoo, bench.options.only or WIDE):
        bench.jobs = []
        bench.add(name, model)
        names = []
        for share, rounded in WIDTHS:
            names.append(f"{name} x{share}{' rounded' if rounded else ''}")
            step = PruneChannels(channels=f"{share}x", align=0 if rounded else 1, score="l2")
            bench.add(names[-1], pruned(model, step, bench.target))
        found = bench.measure()
        of = ({key: one.seconds for key, one in found.items()}, bench.predicted, bench.macs)
        own = [variant for variant in names if variant in found and name in found]
        pairs += [Pair("here", name, v, *(figures[v] / figures[name] for figures in of)) for v in own]
    each = [
        [p.variant, f"{p.measured:.3f}", f"{p.predicted:.3f}", f"{p.predicted / p.measured - 1:+.1%}", f"{p.macs:.3f}"]
        for p in pairs
    ]
    show("latency over the network's own", ["variant", "measured", "predicted", "error", "MACs"], each)
    result = ratios(pairs)
    if result is not None:
        columns = ["pairs", "error", "nine of ten", "by MACs", "wrong signs", "by MACs"]
        show(bench.target.name, columns, [[result.pairs, f"{result.error:.1%}", f"{result.error_90:.1%}",
                                           f"{result.error_macs:.1%}", result.signs, result.signs_macs]])  # fmt: skip


def halved(bench: Bench, zoo: Path) -> None:
    """Networks pruned to half of their predicted latency."""
    each = []
    for name, model in models(zoo, bench.options.only or PRUNED):
        bench.jobs = []
        bench.add(name, model)
        half = f"{name} at 0.5x"
        bench.add(half, pruned(model, PruneChannels(latency="0.5x", score="l2"), bench.target))
        found = bench.measure()
        if name in found and half in found:
            measured = found[half].seconds / found[name].seconds
            predicted = bench.predicted[half] / bench.predicted[name]
            inside = "yes" if 0.45 <= measured <= 0.55 else "no"
            each.append([name, f"{found[name].seconds * 1e3:.2f}", f"{predicted:.3f}", f"{measured:.3f}", inside])
    show("pruned to half of the latency", ["network", "ms", "predicted", "measured", "0.45 to 0.55"], each)


def models(zoo: Path, names: Sequence[str]) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Filled graphs by name, one at a time."""
    module = zoo_module(zoo)
    for name in names:
        yield name, module.load_zoo(name)


def pruned(model: onnx.ModelProto, step: PruneChannels, target: Target) -> onnx.ModelProto:
    """The model prepared and pruned, without refit and proof: they change no shape."""
    return PassManager((*PREPARE, step)).run(Model.load(model), Context(target=target, force=True)).proto()


MODES = {"latency": latency, "widths": widths, "pruned": halved}


def main() -> None:
    """Calibrate where no target is given, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--target", help="a target of this machine; by default one is made first")
    parser.add_argument("--runner", default="onnxruntime")
    parser.add_argument("--only", nargs="+", metavar="NET")
    parser.add_argument("--rounds", type=int, default=5, help="sessions of each model")
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--cpu-time", action="store_true", help="processor time: steadier on a busy machine")
    parser.add_argument("--log", type=Path, help="where sessions are kept, and read from")
    options = parser.parse_args()
    if options.target is None:
        made = calibrate(options.runner, cpu_time=options.cpu_time)
        print("\n".join(made.lines))
        target = made.target
    else:
        target = load_target(options.target)
    with tempfile.TemporaryDirectory() as folder:
        MODES[options.mode](Bench(options, target, Path(folder)), options.zoo)


if __name__ == "__main__":
    main()
