"""Weights and activations as integers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hwpass.errors import UsageError
from hwpass.manager import Pass, PassResult, register
from hwpass.pipeline_text import texts

if TYPE_CHECKING:
    from hwpass.context import Context
    from hwpass.model.model import Model

MODES = {
    "static": "weights and activations, these by ranges seen on data",
    "dynamic": "weights of matrix products and their activations, these by the range of each input as it comes",
    "weights": "weights of matrix products alone, in blocks of 4 or 8 bits",
}
RANGES = {
    "auto": "whichever loses least on samples that set no range",
    "minmax": "from the lowest to the highest value seen",
    "percentile": "all but one in ten thousand values",
    "mse": "with the least squared error",
    "entropy": "with the least divergence of the distribution",
}


#: Operators on what is stored in few bits.
STORED = ("DequantizeLinear", "DynamicQuantizeLinear", "MatMulNBits")


@register
@dataclass(frozen=True)
class Quantize(Pass):
    """Products of floating-point numbers -> products of integers, said by QuantizeLinear and DequantizeLinear.

    Static: weights per channel by their largest magnitude, activations by ranges seen on calibration data (or what is
    made up in their place), where the target's runtime has kernels for integers; biases make up for what rounding does
    to means. An eighth of the data sets no range: on these samples the method for ranges is chosen, and layers stay in
    floating point, the worst first, until the predicted drop of accuracy (or the error of outputs that tell no classes
    apart) is within bounds. Dynamic: weights of matrix products, and each activation by its own range as it comes.
    Weights: those of matrix products alone, in blocks of 4 or 8 bits (MatMulNBits). Tables of embeddings become
    integers too, static and dynamic, and are scaled behind the Gather.

    Does not fire on a model that is quantised; on products whose weights are not constant float32 numbers, or few; on
    scaled or transposed Gemms; on recurrent layers; in bodies of If, Loop and Scan; on layers that `keep` names.
    """

    name = "quantize"
    effect = "format"
    mode: str = field(default="static", metadata={"help": "static, dynamic or weights", "choices": MODES.items})
    ranges: str = field(
        default="auto", metadata={"help": "how ranges are found; auto takes what loses least", "choices": RANGES.items}
    )
    per_channel: bool = field(default=True, metadata={"help": "a scale for each output channel of a weight"})
    bias_correction: bool = field(default=True, metadata={"help": "move biases where that brings outputs nearer"})
    max_drop: float = field(
        default=0.01, metadata={"help": "largest predicted drop of accuracy, as a share; negative: any"}
    )
    max_error: float = field(
        default=0.1, metadata={"help": "largest relative L2 error of outputs that tell no classes; negative: any"}
    )
    samples: int = field(default=512, metadata={"help": "most calibration samples to use"})
    bits: int = field(default=4, metadata={"help": "bits of weights, 4 or 8, in mode weights"})
    block: int = field(default=32, metadata={"help": "weights that share a scale, in mode weights"})
    faster: bool = field(
        default=False, metadata={"help": "only layers that the target is predicted to run faster on integers (static)"}
    )
    keep: tuple[str, ...] = field(default=(), metadata={"help": "layers that stay as they are; globs joined by |"})

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep", texts("keep", self.keep))
        super().__post_init__()
        for name, known in (("mode", tuple(MODES)), ("ranges", tuple(RANGES)), ("bits", (4, 8))):
            if (given := getattr(self, name)) not in known:
                raise UsageError(f"pass quantize: option {name}={given}: choose {', '.join(map(str, known))}")
        if self.faster and self.mode != "static":
            raise UsageError(f"pass quantize: option faster has no effect in mode {self.mode}: leave it out")
        if self.block < 16 or self.block & (self.block - 1) or self.block > 1 << 12:
            raise UsageError(f"pass quantize: option block={self.block}: give a power of two, 16 to 4096")
        if not 1 <= self.samples <= 1 << 20:
            raise UsageError(f"pass quantize: option samples={self.samples}: give 1 to {1 << 20}")

    def run(self, model: Model, context: Context) -> PassResult:
        from hwpass.formats.integers import on_integers, speak_of_latency

        if any(node.op in STORED for node in model.walk()):
            return PassResult(model, False, reason="the model is quantised: what it has in floating point was left so")
        last = context.findings.last
        synthetic = last.study.synthetic if last is not None and last.study is not None else None
        found = on_integers(model, context, self, synthetic)
        if found is None:
            serve = "make faster" if self.faster else "serve"
            context.warn(
                f"nothing was quantised: no product of the model has constant float32 weights that integers {serve}"
            )
            return PassResult(model, False)
        if context.target is not None:
            speak_of_latency(model, found.model, context)
        context.findings.note(self.name, found.note)
        context.findings.moved.update(found.moved)
        return PassResult(found.model, True)
