"""Quantised zoo nets (QDQ per channel, and QOperator) through `--macs 0.5x --score l2 --target server-cpu`.

    python benchmarks/quantized.py ZOO [--names NAME ...] [--forms qdq qoperator]

Nets are quantised by `onnxruntime.quantization.quantize_static` on a few random inputs. Exactness is the pruned
model against its dense twin; the last column runs both without graph optimisation as well, and counts how far apart
outputs are in quantisation steps of the output's range.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import fresh, save_zoo, show

NETS = (
    "tv_resnet18",
    "tv_mobilenet_v2",
    "timm_lcnetv2_small",
    "timm_convnext_atto",
    "dyn_timm_deit_tiny_patch16_224",
    "hf_bert",
)
FORMS = ("qdq", "qoperator", "dynamic")


def quantise(source: Path, target: Path, form: str) -> None:
    """Quantise a float model on four random inputs."""
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from hwpass.runtime.dimensions import dimension_values
    from hwpass.runtime.inputs import input_specs, make_inputs

    prepared = target.with_name("prepared.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    unshare(prepared)
    if form == "dynamic":
        quantize_dynamic(str(prepared), str(target), weight_type=QuantType.QInt8, per_channel=True)
        return
    model = onnx.load(prepared)
    sizes = dimension_values(model)[0]
    feeds = [make_inputs(input_specs(model), sizes, seed, max_token=16) for seed in range(4)]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(feeds)

        def get_next(self) -> Any:
            return next(self.left, None)

    quantize_static(
        str(prepared),
        str(target),
        Reader(),
        quant_format=QuantFormat.QDQ if form == "qdq" else QuantFormat.QOperator,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def unshare(path: Path) -> None:
    """Give a constant a copy for every role it has: the quantiser mixes up a norm's bias and that of a product."""
    import onnx

    model = onnx.load(path)
    known = {t.name: t for t in model.graph.initializer}
    roles: dict[str, dict[str, str]] = {}
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name not in known:
                continue
            role = f"{node.op_type}.{place}"
            own = roles.setdefault(name, {})
            if own and role not in own:
                copy = model.graph.initializer.add()
                copy.CopyFrom(known[name])
                copy.name = f"{name}.{role}"
            node.input[place] = own.setdefault(role, f"{name}.{role}" if own else name)
    onnx.save(model, path)


def worker(zoo: str, name: str, form: str) -> dict[str, Any]:
    """One net in one form, in this process."""
    import onnx
    import onnxruntime

    import hwpass

    row: dict[str, Any] = {"name": name, "form": form}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quantised.onnx"
        quantise(save_zoo(Path(zoo), name, Path(folder)), path, form)
        row["integers"] = sum("Q" in n.op_type or "Integer" in n.op_type for n in onnx.load(path).graph.node)
        start = time.perf_counter()
        try:
            result = hwpass.run(path, "server-cpu", macs=0.5, score="l2", force=True)
            report = result.report
            row["macs"], row["size"] = report.ratio.macs, report.ratio.size
            verdict = report.verdicts.exactness
            row["exact"] = None if verdict is None else verdict.max_rel
            row["frozen"] = [(item.node, item.reason) for item in report.frozen[:3]]
            row["warnings"] = report.warnings
            target = Path(folder) / "pruned.onnx"
            result.save(target)
            onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
            row["status"] = "ok"
        except hwpass.HwpassError as error:
            row["status"], row["message"] = type(error).__name__, str(error)[:300]
        row["seconds"] = time.perf_counter() - start
    return row


def main() -> None:
    """Every net in every form, and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--names", nargs="*", default=NETS)
    parser.add_argument("--forms", nargs="*", default=FORMS)
    options = parser.parse_args()
    rows = []
    for name in options.names:
        for form in options.forms:
            row = {"name": name, "form": form}
            row |= fresh(Path(__file__), "--worker", str(options.zoo), name, form, timeout=900)
            rows.append(row)
            print(json.dumps(row), file=sys.stderr)
    show(
        "quantised nets at --macs 0.5x",
        ["net", "form", "status", "MACs left", "size left", "exactness", "s", "why"],
        [
            [
                r["name"],
                r["form"],
                r.get("status", "crash"),
                r.get("macs", "-"),
                r.get("size", "-"),
                r.get("exact", "-"),
                r.get("seconds", "-"),
                r.get("message") or r.get("error") or "; ".join(r.get("warnings", []))[:120],
            ]
            for r in rows
        ],
    )


if __name__ == "__main__":
    np.seterr(all="ignore")
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(worker(*sys.argv[2:5])))
    else:
        main()
