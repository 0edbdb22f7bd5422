"""Weights set to zero by masks: unstructured, in blocks, or N of M."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hwpass.errors import UsageError, option
from hwpass.figures import shown
from hwpass.manager import Pass, PassResult, register
from hwpass.options import pass_option
from hwpass.pipeline_text import texts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hwpass.context import Context
    from hwpass.model.model import Model
    from hwpass.planning.weight_pruning import Pruned, Request
    from hwpass.surgery.weight_views import WeightView

#: What some options may be, and what that means.
ZEROS = (
    ("auto", "gram with data, else magnitude"),
    ("gram", "least squares on the inputs that each layer has by then"),
    ("magnitude", "the largest weights are kept"),
)
SPREADS = (
    ("power", "one threshold for all layers on what each weight gives its layer on the data; without data uniform"),
    ("uniform", "the same share in each layer"),
)
STORES = (
    ("auto", "sparse where the target's runtime reads it and it is smaller"),
    ("dense", "with the zeros"),
    ("sparse", "as sparse tensors, where these are smaller"),
)


@register
@dataclass(frozen=True)
class PruneWeights(Pass):
    """y = W x + b -> y = (W' * mask) x + b', with zeros where the pattern wants them and the rest refitted.

    With calibration data zeros are chosen, and the remaining weights fitted, by least squares on the inputs that each
    layer has by then; without, the largest weights are kept as they are. The pattern N:M (2:4) lies along the inputs,
    for each output and each position of the window: that is the axis that sparse tensor cores read. Where ONNX Runtime
    runs the model and it saves room, weights are stored as sparse tensors; its kernels are dense, so that a CPU gains
    nothing in time.

    Does not fire on recurrent layers, in bodies, on weights that layers share or that are not floating point, where
    the pattern does not divide the inputs or outputs, or where there are as many zeros already. Goes behind
    prune-channels; what would fit weights anew behind it leaves them alone.
    """

    name = "prune-weights"
    effect = "mask"
    in_place = False
    sparsity: float = field(default=0.5, metadata={"help": "share of zeros; N:M decides it by itself"})
    pattern: str = field(
        default="unstructured", metadata={"help": "unstructured, N:M such as 2:4, or OUTPUTSxINPUTS such as 4x1"}
    )
    zeros: str = field(default="auto", metadata={"help": "how zeros are chosen", "choices": lambda: ZEROS})
    spread: str = field(default="power", metadata={"help": "how zeros are spread", "choices": lambda: SPREADS})
    refit: bool = field(default=True, metadata={"help": "fit the remaining weights on the data"})
    keep: tuple[str, ...] = pass_option("keep", (), "globs joined by |")
    store: str = field(default="auto", metadata={"help": "how masked weights are written", "choices": lambda: STORES})
    samples: int = field(default=1024, metadata={"help": "most calibration samples to use"})
    rows: int = field(default=16384, metadata={"help": "most rows of a layer's input and output to fit on"})

    def __post_init__(self) -> None:
        from hwpass.surgery.sparsity_patterns import Pattern

        object.__setattr__(self, "keep", texts("keep", self.keep))
        super().__post_init__()
        decided = Pattern.parse(self.pattern).sparsity
        if not 0 < self.sparsity < 1:
            raise UsageError(f"pass {self.name}: option sparsity={self.sparsity:g}: give a share between 0 and 1")
        if decided is not None and self.sparsity not in (0.5, decided):
            raise UsageError(f"pass {self.name}: {self.pattern} is {decided:.3g} zeros by itself; leave sparsity out")
        for name, choices in (("zeros", ZEROS), ("spread", SPREADS), ("store", STORES)):
            allowed, given = [choice for choice, _ in choices], getattr(self, name)
            if given not in allowed:
                raise UsageError(f"pass {self.name}: option {name}={shown(given)}: write {' or '.join(allowed)}")
        for name in ("samples", "rows"):
            if not 1 <= getattr(self, name) <= 1 << 31:
                raise UsageError(f"pass {self.name}: option {name}={getattr(self, name)}: give 1 or more")

    def run(self, model: Model, context: Context) -> PassResult:
        from hwpass.planning.analyses import coupled
        from hwpass.planning.removal import check_finite
        from hwpass.planning.study import named
        from hwpass.planning.weight_pruning import WeightPruning, kept_blocks, layers_of, settled

        data = context.calibration
        if data is None and self.zeros == "gram":
            raise UsageError(f"{self.name}: zeros=gram needs calibration data: give some by {option('calib')}")
        check_finite(model)
        request = self._request(data is not None)
        coupling = coupled(model, context, own=True)
        layers, refused = layers_of(coupling, request)
        kept_names = named([node.name for node in coupling.nodes], self.keep)
        layers = [view for view in layers if view.node.name not in kept_names]
        if not layers or settled(layers, request):
            why = "no layer can have the pattern" if not layers else "the weights have as many zeros already"
            context.warn(f"{self.name}: nothing was set to zero, as {why}")
            return PassResult(model, False, reason=why)
        blocks = kept_blocks(layers, request, coupling, data, context)
        found = WeightPruning(coupling, layers, blocks, request, context).run(data)
        if data is None:
            context.warn(
                f"{self.name}: without calibration data the largest weights are kept as they are and nothing is"
                f" refitted; give inputs with {option('calib')}"
            )
        self._store(found, context)
        context.findings.note(self.name, self._told(found, layers, refused, context))
        return PassResult(found.model, bool(found.masks.weights), declared=found.masks)

    def _request(self, data: bool) -> Request:
        from hwpass.planning.weight_pruning import Request
        from hwpass.surgery.sparsity_patterns import Pattern

        pattern: Any = Pattern.parse(self.pattern)
        choice: Any = self.zeros if self.zeros != "auto" else "gram" if data else "magnitude"
        share = self.sparsity if pattern.sparsity is None else pattern.sparsity
        spread: Any = self.spread
        return Request(pattern, share, choice, spread, self.refit and data, self.samples, self.rows)

    def _store(self, found: Pruned, context: Context) -> None:
        """Have masked weights written as sparse tensors where the runtime reads them and they are smaller."""
        from hwpass.proto.sparse import smaller

        runtime = "" if context.target is None else context.target.runtime
        reads = context.target is None or runtime.startswith("ONNX Runtime")
        if self.store == "dense" or (self.store == "auto" and not reads):
            return
        constants = {n.outputs[0].name: n.inputs[1] for n in found.model.graph.nodes if n.outputs and len(n.inputs) > 1}
        chosen = [constants[weight.place[0]] for weight in found.masks.weights]
        names = {tensor.name for tensor in chosen if smaller(tensor)}
        found.model.sparse |= names

    def _told(
        self, found: Pruned, layers: Sequence[WeightView], refused: Mapping[str, str], context: Context
    ) -> dict[str, Any]:
        """What the report says."""
        nodes = {n.outputs[0].name: n for n in found.model.graph.nodes if n.outputs}
        masked = {weight.place: weight for weight in found.masks.weights}
        told: dict[str, dict[str, Any]] = {}
        size = zeros = 0
        for view in layers:
            if view.place not in masked:
                told[view.node.name] = {"left alone": "it could not be fitted on the data"}
                continue
            values = nodes[view.place[0]].inputs[1].values
            none = int(values.size - (values != 0).sum())
            size, zeros = size + values.size, zeros + none
            told[view.node.name] = {"sparsity": round(none / values.size, 4)}
            if view.place in found.errors:
                before, after = found.errors[view.place]
                told[view.node.name] |= {"error by magnitude": float(f"{before:.3g}"), "error": float(f"{after:.3g}")}
        sparse = len(found.model.sparse)
        stored = f"{sparse} weights as sparse tensors" if sparse else "dense"
        if not sparse and self.store == "auto" and context.target is not None:
            stored += f": {context.target.runtime}" if not context.target.runtime.startswith("ONNX Runtime") else ""
        left = {name: {"left alone": reason} for name, reason in refused.items()}
        return {
            "pattern": self.pattern, "sparsity": round(zeros / max(size, 1), 4), "weights": size, "stored": stored,
            "layers": {**told, **left},
        }  # fmt: skip
