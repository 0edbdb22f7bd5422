"""`openvino`, or `openvino:DEVICE`: OpenVINO on the processor or another of its devices (extra `openvino`)."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from hwpass.runners.in_process import ENGINES, ProcessRunner
from hwpass.runners.runner import Job, need, register


@register
class OpenVino(ProcessRunner):
    """OpenVINO on this machine, fp32."""

    name = "openvino"
    summary = "OpenVINO on this machine; after the colon its device, CPU by default (extra openvino)"
    engine = ENGINES / "openvino_engine.py"
    bases = ("server-cpu", "server-cpu-avx2")

    def __init__(self, argument: str = "") -> None:
        super().__init__(argument)
        need("openvino", "openvino", f"runner {self.name}")
        self.device = argument or "CPU"
        self.meter = "processor" if self.device == "CPU" else None

    def more(self, job: Job) -> Mapping[str, Any]:
        """The device."""
        return {"device": self.device}

    def describe(self) -> str:
        """Version and device."""
        return f"OpenVINO {version('openvino')}, {self.device}, fp32"
