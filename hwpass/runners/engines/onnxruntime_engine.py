"""ONNX Runtime: one session by one execution provider, denormals flushed, as random weights run into them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime as ort


def opened(job: dict[str, Any]) -> Callable[[], object]:
    """One run of the model with its inputs."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = job["threads"]
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    with np.load(job["feed"], allow_pickle=True) as arrays:  # written by the parent process
        pairs = range(0, len(arrays.files), 2)
        feed = {str(arrays[f"arr_{place}"]): arrays[f"arr_{place + 1}"] for place in pairs}
    session = ort.InferenceSession(job["model"], options, providers=[job["provider"]])
    if job["provider"] not in session.get_providers():
        raise RuntimeError(f"{job['provider']} could not be started, so that the model would run elsewhere")
    return lambda: session.run(None, feed)
