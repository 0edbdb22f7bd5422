"""Runs the simulators for `simulators.py`, in an environment that has them; prints one JSON line.

    PYTHON benchmarks/simulators_worker.py vela|scalesim REQUEST.json

Nothing of hwpass is imported. A request is a list: chains of convolutions for Vela, products for SCALE-Sim.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

# One convolution: input and output channels, window, whether it is depthwise.
Layer = tuple[int, int, int, bool]


class Tflite:
    """Writes an int8 chain of convolutions by the schema that comes with Vela; weights are random, of one seed."""

    def __init__(self, side: int, layers: Sequence[Layer]) -> None:
        import flatbuffers

        self.b = flatbuffers.Builder(1 << 16)
        self.buffers = [self._buffer(b"")]
        self.tensors: list[int] = []
        self.operators: list[int] = []
        random = np.random.default_rng(0)
        x = self._tensor((1, side, side, layers[0][0]), "INT8", 0, "input")
        self.first = x
        for number, (k, n, size, depthwise) in enumerate(layers):
            shape = (1, size, size, n) if depthwise else (n, size, size, k)
            data = random.integers(-127, 128, shape).astype(np.int8).tobytes()
            w = self._tensor(shape, "INT8", self._constant(data), f"w{number}", n, 3 if depthwise else 0)
            bias = self._tensor((n,), "INT32", self._constant(bytes(4 * n)), f"b{number}", n)
            y = self._tensor((1, side, side, n), "INT8", 0, f"y{number}")
            self.operators.append(self._operator(x, w, bias, y, depthwise))
            x = y
        self.last = x

    def _part(self, name: str) -> Any:
        return __import__(f"ethosu.vela.tflite.{name}", fromlist=[name])

    def _table(self, module: str, **fields: Any) -> int:
        part = self._part(module)
        getattr(part, f"{module}Start")(self.b)
        for key, value in fields.items():
            getattr(part, f"{module}Add{key}")(self.b, value)
        return int(getattr(part, f"{module}End")(self.b))

    def _enum(self, module: str, name: str) -> int:
        return int(getattr(getattr(self._part(module), module), name))

    def _ints(self, values: Sequence[int], kind: Any = np.int32) -> int:
        return int(self.b.CreateNumpyVector(np.asarray(values, kind)))

    def _list(self, module: str, field: str, items: Sequence[int]) -> int:
        getattr(self._part(module), f"{module}Start{field}Vector")(self.b, len(items))
        for item in reversed(items):
            self.b.PrependUOffsetTRelative(item)
        return int(self.b.EndVector())

    def _buffer(self, data: bytes) -> int:
        return self._table("Buffer", **({"Data": self.b.CreateByteVector(data)} if data else {}))

    def _constant(self, data: bytes) -> int:
        self.buffers.append(self._buffer(data))
        return len(self.buffers) - 1

    def _tensor(
        self, shape: tuple[int, ...], kind: str, buffer: int, name: str, channels: int = 1, axis: int = 0
    ) -> int:
        scale = 0.05 if channels == 1 and kind == "INT8" else 0.01
        scales = self.b.CreateNumpyVector(np.full(channels, scale, np.float32))
        zeros = self._ints([0] * channels, np.int64)
        quantized = self._table("QuantizationParameters", Scale=scales, ZeroPoint=zeros, QuantizedDimension=axis)
        text, extents = self.b.CreateString(name), self._ints(shape)
        self.tensors.append(
            self._table(
                "Tensor", Shape=extents, Type=self._enum("TensorType", kind), Buffer=buffer, Name=text,
                Quantization=quantized,
            )
        )  # fmt: skip
        return len(self.tensors) - 1

    def _operator(self, x: int, w: int, bias: int, y: int, depthwise: bool) -> int:
        kind = "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions"
        more = {"DepthMultiplier": 1} if depthwise else {}
        options = self._table(kind, StrideW=1, StrideH=1, **more)
        inputs, outputs = self._ints([x, w, bias]), self._ints([y])
        return self._table(
            "Operator", OpcodeIndex=int(depthwise), Inputs=inputs, Outputs=outputs,
            BuiltinOptionsType=self._enum("BuiltinOptions", kind), BuiltinOptions=options,
        )  # fmt: skip

    def bytes(self) -> bytes:
        """The file."""
        tensors = self._list("SubGraph", "Tensors", self.tensors)
        inputs, outputs = self._ints([self.first]), self._ints([self.last])
        operators, name = self._list("SubGraph", "Operators", self.operators), self.b.CreateString("main")
        graph = self._table(
            "SubGraph", Tensors=tensors, Inputs=inputs, Outputs=outputs, Operators=operators, Name=name
        )  # fmt: skip
        codes = []
        for code in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            value = self._enum("BuiltinOperator", code)
            codes.append(self._table("OperatorCode", DeprecatedBuiltinCode=value, BuiltinCode=value, Version=3))
        graphs = self._list("Model", "Subgraphs", [graph])
        known = self._list("Model", "OperatorCodes", codes)
        buffers = self._list("Model", "Buffers", self.buffers)
        self.b.Finish(self._table("Model", Version=3, OperatorCodes=known, Subgraphs=graphs, Buffers=buffers), b"TFL3")
        return bytes(self.b.Output())


def vela(requests: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """Cycles of the unit and in all, and SRAM, of each chain."""
    from ethosu.vela import vela as compiler

    found = []
    for request in requests:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "chain.tflite"
            file.write_bytes(Tflite(request["side"], [tuple(layer) for layer in request["layers"]]).bytes())
            arguments = [str(file), "--output-dir", folder, *request["options"]]
            with contextlib.redirect_stdout(io.StringIO()):
                compiler.main(arguments)
            summary = next(Path(folder).glob("*_summary_*.csv"))
            with summary.open(encoding="utf-8", newline="") as stream:
                row = next(csv.DictReader(stream))
        keys = {"unit": "cycles_npu", "cycles": "cycles_total", "sram_kib": "sram_memory_used"}
        found.append({key: float(row[name]) for key, name in keys.items()})
    return found


CONFIG = """
[general]
run_name = run
[architecture_presets]
ArrayHeight: {rows}
ArrayWidth: {columns}
IfmapSramSzkB: 4096
FilterSramSzkB: 4096
OfmapSramSzkB: 4096
IfmapOffset: 0
FilterOffset: 10000000
OfmapOffset: 20000000
Bandwidth: 10
Dataflow: {dataflow}
MemoryBanks: 1
ReadRequestBuffer: 32
WriteRequestBuffer: 32
[layout]
IfmapCustomLayout: False
IfmapSRAMBankBandwidth: 10
IfmapSRAMBankNum: 10
IfmapSRAMBankPort: 2
FilterCustomLayout: False
FilterSRAMBankBandwidth: 10
FilterSRAMBankNum: 10
FilterSRAMBankPort: 2
[sparsity]
SparsitySupport: false
SparseRep: ellpack_block
OptimizedMapping: false
BlockSize: 8
RandomNumberGeneratorSeed: 40
[run_presets]
InterfaceBandwidth: CALC
UseRamulatorTrace: False
"""


def scalesim(requests: Sequence[dict[str, Any]]) -> list[list[float]]:
    """Cycles of every product [m, n, k] of each request, memory being fast enough."""
    from scalesim.scale_sim import scalesim as Simulator

    found = []
    for request in requests:
        with tempfile.TemporaryDirectory() as folder:
            config, topology, layout = (Path(folder) / name for name in ("run.cfg", "run.csv", "layout.csv"))
            config.write_text(CONFIG.format(**request["array"]), encoding="utf-8")
            rows = [f"L{number}, {m}, {n}, {k}," for number, (m, n, k) in enumerate(request["products"])]
            topology.write_text("\n".join(["Layer, M, N, K,", *rows]) + "\n", encoding="utf-8")
            layout.write_text("", encoding="utf-8")
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                simulator = Simulator(
                    save_disk_space=True, verbose=False, config=str(config), topology=str(topology),
                    layout=str(layout), input_type_gemm=True,
                )  # fmt: skip
                simulator.run_scale(top_path=folder)
            report = next(Path(folder).rglob("COMPUTE_REPORT.csv"))
            with report.open(encoding="utf-8", newline="") as stream:
                lines = list(csv.DictReader(stream, skipinitialspace=True))
        found.append([float(line["Total Cycles"]) for line in lines])
    return found


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    print(json.dumps({"found": {"vela": vela, "scalesim": scalesim}[sys.argv[1]](asked)}))
