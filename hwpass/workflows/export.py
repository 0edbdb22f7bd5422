"""A torch module exported and made smaller in one call."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from hwpass.cost_models import Target
from hwpass.options import RunOptions, chosen, signature
from hwpass.runtime.inputs import input_specs
from hwpass.workflows.job import Result
from hwpass.workflows.run import run


def export(
    module: Any,
    example_inputs: Any,
    target: str | os.PathLike[str] | Target,
    path: str | os.PathLike[str] | None = None,
    options: RunOptions | None = None,
    *,
    dynamic_shapes: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    progress: Callable[[str], None] | None = None,
    **asked: Any,
) -> Result:
    """Export a `torch.nn.Module` to ONNX, then do what `hwpass.run` does, and write the result to `path`, if given.

    `example_inputs` is a tensor or a tuple of them; `dynamic_shapes` and the names are those of `torch.onnx.export`.
    `calib` may hold tensors: one, a mapping by input, or batches as a DataLoader gives, labels left out. The module
    stays as it was. Raises UsageError or InputError where it cannot be exported, and what `hwpass.run` raises.
    """
    from hwpass.torch.exporting import as_arrays, exported

    options = chosen("run", options, asked)
    proto = exported(
        module, example_inputs, dynamic_shapes=dynamic_shapes, input_names=input_names, output_names=output_names
    )
    names = [spec.name for spec in input_specs(proto)]
    result = run(proto, target, replace(options, calib=as_arrays(options.calib, names)), progress=progress)
    if path is not None:
        result.save(path)
    return result


export.__signature__ = signature(export, "run")  # type: ignore[attr-defined]
