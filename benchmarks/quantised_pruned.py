"""Pruned and quantised: accuracy, size and latency of each alone and of both, beside ONNX Runtime's static quantiser.

    python benchmarks/quantised_pruned.py [FOLDER ...] [--names GLOB ...] [--methods NAME ...] [--size 0.5x]

The fixtures, and the real models of `real_tasks.py` whose packages are unpacked below the folders. All methods see the
same calibration samples; accuracy is on others, latency is ONNX Runtime's on this machine, one thread, sessions of all
methods in turn. `--distill SECONDS` trains the pruned networks before they are quantised (needs torch).
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from common import show
from real_tasks import Feed, Task, tasks

from hwpass.runtime.inputs import input_specs, make_inputs
from hwpass.runtime.sessions import ModelLike, open_session, run_session
from hwpass.workflows.run import execute
from hwpass.workflows.steps import PREPARE

FIXTURES = Path(__file__).parents[1] / "fixtures"
PREPARED = ",".join(map(str, PREPARE))

#: Samples that ONNX Runtime's quantiser sees, and as many for ours.
SAMPLES = 512


def fixture(name: str) -> Task:
    """One of the fixtures as a task."""

    def accuracy(model: ModelLike) -> float:
        session = open_session(model)
        with np.load(FIXTURES / "test.npz") as data:
            images, labels = data["image"], data["label"]
        parts = [run_session(session, {"image": images[i : i + 100]})["logits"] for i in range(0, len(images), 100)]
        return float((np.concatenate(parts).argmax(axis=1) == labels).mean())

    def calibration() -> Sequence[Feed]:
        with np.load(FIXTURES / "calib.npz") as data:
            return [{"image": image[None]} for image in data["image"]]

    return Task(name, FIXTURES / f"{name}.onnx", "accuracy", accuracy, calibration, {"batch": 1})


def by_onnxruntime(task: Task, feeds: Sequence[Feed]) -> onnx.ModelProto:
    """ONNX Runtime's static quantiser as its documentation says: prepared, QDQ, per channel, ranges by minmax."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    left = iter(feeds[:SAMPLES])

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Feed | None:
            return next(left, None)

    with tempfile.TemporaryDirectory() as folder:
        prepared, result = Path(folder) / "prepared.onnx", Path(folder) / "quantised.onnx"
        quant_pre_process(str(task.path), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared), str(result), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
        return onnx.load(result)


def by_hwpass(task: Task, feeds: Sequence[Feed], steps: str, target: str) -> onnx.ModelProto:
    """A pipeline of ours."""
    return execute(task.path, f"{PREPARED},{steps},verify", target=target, calib=list(feeds)).model.proto()


def methods(task: Task, options: argparse.Namespace) -> dict[str, Callable[[], onnx.ModelProto]]:
    """Every way to make the model smaller, by name."""
    feeds = task.calibration()
    train = f",distill{{seconds={options.distill}}}" if options.distill else ""
    prune = f"prune-channels{{size={options.size}}},compensate{train},lower-norms"
    quantise = f"quantize{{samples={SAMPLES}}}"  # norms are standard operators by then
    return {
        "dense": lambda: onnx.load(task.path),
        "quantised by ONNX Runtime": lambda: by_onnxruntime(task, feeds),
        "quantised": lambda: by_hwpass(task, feeds, f"lower-norms,{quantise}", options.target),
        "pruned": lambda: by_hwpass(task, feeds, prune, options.target),
        "pruned and quantised": lambda: by_hwpass(task, feeds, f"{prune},{quantise}", options.target),
    }


def latencies(models: dict[str, onnx.ModelProto], task: Task, sessions: int, runs: int) -> dict[str, float]:
    """Milliseconds of processor time of a run at the task's sizes: the median of sessions' fastest fifths."""
    feeds = {name: make_inputs(input_specs(model), task.dims) for name, model in models.items()}
    found: dict[str, list[float]] = {name: [] for name in models}
    for _, name in itertools.product(range(sessions), models):
        # As it is deployed: the sessions that verdicts run in never saturate, at a price on integers.
        settings = ort.SessionOptions()
        settings.intra_op_num_threads, settings.log_severity_level = 1, 4
        settings.add_session_config_entry("session.set_denormal_as_zero", "1")
        session = ort.InferenceSession(models[name].SerializeToString(), settings, providers=["CPUExecutionProvider"])
        times = []
        for _ in range(runs):
            start = time.process_time()
            session.run(None, feeds[name])
            times.append(time.process_time() - start)
        found[name].append(sorted(times)[runs // 5])
        del session
    return {name: 1e3 * statistics.median(times) for name, times in found.items()}


def rows(task: Task, options: argparse.Namespace) -> Iterator[list[object]]:
    """A row for each method."""
    made: dict[str, onnx.ModelProto] = {}
    for name, make in methods(task, options).items():
        if name != "dense" and options.methods and name not in options.methods:
            continue
        try:
            model = make()
            open_session(model)
            made[name] = model
        except Exception as error:  # whatever the method's own tools raise
            yield [task.name, name, "-", "-", "-", str(error)[:80]]
    times = latencies(made, task, options.sessions, options.runs)
    size = made["dense"].ByteSize()
    dense = task.metric(made["dense"])
    for name, model in made.items():
        figure = dense if name == "dense" else task.metric(model)
        yield [task.name, name, f"{figure:.4f}", f"{100 * (figure - dense):+.2f}", f"{model.ByteSize() / size:.3f}x",
               f"{times[name]:.3f} ms ({times[name] / times['dense']:.2f}x)"]  # fmt: skip


def main() -> None:
    """Make and measure all models, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, help="where packages with real models were unpacked")
    parser.add_argument("--names", nargs="+", default=["*"], help="names of models, as globs")
    parser.add_argument("--methods", nargs="+", default=[], help="names of methods")
    parser.add_argument("--target", default="server-cpu")
    parser.add_argument("--size", default="0.5x", help="budget of pruning, before weights become integers")
    parser.add_argument("--distill", type=float, default=0.0)
    parser.add_argument("--sessions", type=int, default=5)
    parser.add_argument("--runs", type=int, default=40)
    options = parser.parse_args()
    found: list[list[object]] = []
    networks = [fixture(name) for name in ("cnn", "resnet_se", "mobilenet", "densenet", "vit")]
    for task in (*networks, *tasks(options.folders)):
        if any(fnmatchcase(task.name, glob) for glob in options.names):
            for row in rows(task, options):
                found.append(row)
                print(*row, sep=" | ", flush=True)
    show(f"pruned to {options.size} of the weights for {options.target}, then quantised",
         ["model", "method", "metric", "points", "file", "latency"], found)  # fmt: skip


if __name__ == "__main__":
    main()
