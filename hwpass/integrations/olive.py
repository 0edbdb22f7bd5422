"""hwpass as a pass of Microsoft Olive (`olive-ai`): what `hwpass.run` does, on an ONNX model in an Olive workflow.

Olive finds passes by a package configuration; `package_config` gives its own with the pass `Hwpass` in it:

    from hwpass.integrations.olive import write_package_config
    olive.workflows.run("workflow.json", package_config=write_package_config("olive_packages.json"))
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from olive.common.config_utils import validate_config
from olive.data.config import DataConfig
from olive.model import ONNXModelHandler
from olive.model.utils import resolve_onnx_path
from olive.package_config import OlivePackageConfig
from olive.passes import Pass
from olive.passes.pass_config import PassConfigParam

from hwpass.options import of_command
from hwpass.workflows.run import run

#: What any accelerator, provider and precision is called.
ANY = ["*"]


def package_config() -> dict[str, Any]:
    """Olive's package configuration with the pass `Hwpass` in it."""
    found: dict[str, Any] = json.loads(Path(OlivePackageConfig.get_default_config_path()).read_text(encoding="utf-8"))
    found["passes"]["Hwpass"] = {
        "module_path": f"{Hwpass.__module__}.{Hwpass.__qualname__}",
        "supported_providers": ANY,
        "supported_accelerators": ANY,
        "supported_precisions": ANY,
        "supported_algorithms": [],
        "supported_quantization_encodings": [],
        "run_on_target": False,
    }
    return found


def write_package_config(path: str | os.PathLike[str]) -> str:
    """Write `package_config` to a file; its path, as Olive takes it."""
    Path(path).write_text(json.dumps(package_config(), indent=1), encoding="utf-8")
    return os.fspath(path)


class Hwpass(Pass):  # type: ignore[misc]  # Olive has no types
    """Smaller and faster on a target, within budgets, and proved: see `hwpass.run`, whose options these are.

    `data_config` is Olive's way to give calibration data; `calib` is that of hwpass, a file or a folder.
    """

    @classmethod
    def _default_config(cls, accelerator_spec: Any) -> dict[str, PassConfigParam]:
        params = {
            "target": PassConfigParam(
                type_=str, required=True, description="A target of hwpass, or the path of a target's file."
            ),
            "data_config": PassConfigParam(
                type_=DataConfig | dict, default_value=None, description="Calibration data, in place of calib."
            ),
        }
        for item in of_command("run"):
            params[item.name] = PassConfigParam(type_=Any, default_value=None, description=item.metadata["help"])
        return params

    def _run_for_config(self, model: ONNXModelHandler, config: Any, output_model_path: str) -> ONNXModelHandler:
        path = resolve_onnx_path(output_model_path, Path(model.model_path).name)
        names = [item.name for item in of_command("run")]
        asked = {name: value for name in names if (value := getattr(config, name)) is not None}
        if config.data_config is not None:
            data = validate_config(config.data_config, DataConfig).to_data_container()
            reader = data.create_calibration_dataloader(model_path=model.model_path, io_config=model.io_config)
            asked["calib"] = _feeds(reader)
        result = run(model.model_path, config.target, **asked)
        result.save(path)
        return ONNXModelHandler(model_path=path)


def _feeds(reader: Any) -> Iterator[dict[str, Any]]:
    """The feeds of a calibration data reader or of a data loader of Olive."""
    if hasattr(reader, "get_next"):
        while (feed := reader.get_next()) is not None:
            yield dict(feed)
        return
    for batch in reader:
        inputs = batch[0] if isinstance(batch, tuple | list) else batch
        yield {name: value.numpy() if hasattr(value, "numpy") else value for name, value in inputs.items()}
