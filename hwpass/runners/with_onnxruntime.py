"""`onnxruntime`, or `onnxruntime:PROVIDER`: ONNX Runtime with one of the execution providers that it was built with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hwpass.errors import UsageError, option
from hwpass.figures import shown
from hwpass.runners.in_process import ENGINES, ProcessRunner
from hwpass.runners.runner import Job, register

CPU = "CPUExecutionProvider"
#: Providers that compute on an NVIDIA GPU.
GPU = ("CUDAExecutionProvider", "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")


@register
class OnnxRuntime(ProcessRunner):
    """ONNX Runtime on this machine."""

    name = "onnxruntime"
    summary = "ONNX Runtime on this machine; after the colon the execution provider, the processor's by default"
    engine = ENGINES / "onnxruntime_engine.py"
    bases = ("server-cpu", "server-cpu-avx2")

    def __init__(self, argument: str = "") -> None:
        super().__init__(argument)
        self.provider = argument or CPU
        if argument:
            import onnxruntime

            present = onnxruntime.get_available_providers()
            if argument not in present:
                asked = option("runner", f"{self.name}:{shown(argument)}")
                raise UsageError(f"{asked}: expected an execution provider that is there: {', '.join(present)}")
        if self.provider in GPU:
            self.meter = "nvidia-gpu"

    def more(self, job: Job) -> Mapping[str, Any]:
        """The execution provider."""
        return {"provider": self.provider}

    def describe(self) -> str:
        """Version and provider."""
        import onnxruntime

        return f"ONNX Runtime {onnxruntime.__version__}, {self.provider}"
