"""OpenVINO: one compiled model on one device, in fp32, inputs of fixed sizes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import openvino as ov

#: Its threads are its own, so that all of the process's are counted.
CPU_CLOCK = time.process_time


def opened(job: dict[str, Any]) -> Callable[[], object]:
    """One inference of the model with its inputs."""
    with np.load(job["feed"], allow_pickle=True) as arrays:  # written by the parent process
        pairs = range(0, len(arrays.files), 2)
        feed = {str(arrays[f"arr_{place}"]): arrays[f"arr_{place + 1}"] for place in pairs}
    core = ov.Core()
    model = core.read_model(job["model"])
    model.reshape({name: list(value.shape) for name, value in feed.items()})
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    if job["device"] == "CPU":
        config |= {"INFERENCE_NUM_THREADS": job["threads"], "NUM_STREAMS": 1, "CPU_DENORMALS_OPTIMIZATION": "YES"}
    request = core.compile_model(model, job["device"], config).create_infer_request()
    for name, value in feed.items():
        request.set_tensor(name, ov.Tensor(np.ascontiguousarray(value)))
    return lambda: request.infer()
