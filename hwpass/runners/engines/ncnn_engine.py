"""ncnn: one network that pnnx made of the model, fp32, on the processor. It flushes denormals unless told otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ncnn
import numpy as np


def opened(job: dict[str, Any]) -> Callable[[], object]:
    """One extraction of all outputs."""
    if job.get("failure"):
        raise RuntimeError(job["failure"])
    with np.load(job["feed"], allow_pickle=True) as arrays:  # written by the parent process
        values = [arrays[f"arr_{place}"] for place in range(1, len(arrays.files), 2)]
    net = ncnn.Net()
    net.opt.num_threads = job["threads"]
    net.opt.use_vulkan_compute = False
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    if net.load_param(job["param"]) or net.load_model(job["bin"]):
        raise RuntimeError("ncnn cannot load what pnnx made of the model")
    feed = [ncnn.Mat(np.ascontiguousarray(_inner(value, job["batched"]))).clone() for value in values]
    names = list(zip(net.input_names(), feed, strict=True))
    outputs = list(net.output_names())

    def run() -> None:
        extractor = net.create_extractor()
        for name, value in names:
            if extractor.input(name, value):
                raise RuntimeError(f"ncnn cannot take input {name}")
        for name in outputs:
            status, _ = extractor.extract(name)
            if status:
                raise RuntimeError(f"ncnn cannot compute {name} (status {status})")

    return run


def _inner(value: np.ndarray, batched: bool) -> np.ndarray:
    """ncnn has no batch axis."""
    value = value[0] if batched and value.ndim > 1 and value.shape[0] == 1 else value
    return value.astype(np.int32) if value.dtype.kind in "iu" else value.astype(np.float32)
