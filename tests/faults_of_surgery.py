"""Faults in what cuts channels out, in plans, and in the analysis that says which channels go together."""

from __future__ import annotations

from planted import Fault

from hwpass.coupling import factors as factoring
from hwpass.coupling import walk as analysis
from hwpass.ops import axes
from hwpass.planning.plan import Plan
from hwpass.surgery import cut as rewrite
from hwpass.verdicts import masking

_Cutter = rewrite._Cutter

# A fault to a line or two, as a table.
# fmt: off
SURGERY = [
    # Which entries of a weight stay, and what they are.
    Fault("masks are rolled by one", _Cutter._slice_constants, "tuple(self.kept(axis) for",
          "tuple(np.roll(self.kept(axis), 1) for", "conv"),
    Fault("masks of the tied are rolled by one", _Cutter._slice_constants, "tuple(self.kept(axis) for",
          "tuple(np.roll(self.kept(axis), 1) for", "tied"),
    Fault("masks are inverted", _Cutter._slice_constants, "tuple(self.kept(axis) for",
          "tuple(np.roll(~self.kept(axis), 1) if self.kept(axis).sum() * 2 == len(self.kept(axis))"
          " else self.kept(axis)[::-1] for", "conv"),
    Fault("two producer channels are swapped", rewrite._compress, "return np.asarray(values)",
          "return np.asarray(values[[1, 0, *range(2, len(values))]] if values.ndim == 4 else values)", "conv"),
    Fault("two consumer channels are swapped", rewrite._compress, "return np.asarray(values)",
          "return np.asarray(values if masks[0].all() is False else values[:, ::-1] if values.ndim > 2 else values)",
          "conv"),
    Fault("a matrix is read the other way round", rewrite._compress, "return np.asarray(values)",
          "return np.asarray(values[:, ::-1] if values.ndim == 2 else values)", "gemm"),
    Fault("a vector is read from its end", rewrite._compress, "return np.asarray(values)",
          "return np.asarray(values[::-1] if values.ndim == 1 else values)", "conv"),
    Fault("kernels are flipped", rewrite._compress, "return np.asarray(values)",
          "return np.asarray(values[..., ::-1])", "conv"),
    Fault("kernels of groups are flipped", rewrite._compress, "return np.asarray(values)",
          "return np.asarray(values[..., ::-1])", "grouped"),
    Fault("kernels of transposed convolutions are flipped", rewrite._compress, "return np.asarray(values)",
          "return np.asarray(values[..., ::-1])", "deconv"),
    Fault("biases are forgotten", rewrite._compress, "return np.asarray(values)",
          "return np.asarray(values * (values.ndim > 1))", "conv"),
    Fault("biases behind an Add are forgotten", rewrite._compress, "return np.asarray(values)",
          "return np.asarray(values * (values.ndim > 1))", "einsum"),
    Fault("one weight is off by one", rewrite._compress, "return np.asarray(values)",
          "values = np.array(values); values.reshape(-1)[0] += 1; return values", "gemm"),
    Fault("one weight is off by a hundredth of itself", rewrite._compress, "return np.asarray(values)",
          "values = np.array(values); values.reshape(-1)[np.abs(values).argmax()] *= 1.01; return values", "conv"),
    Fault("one weight of a table is off by a hundredth", rewrite._compress, "return np.asarray(values)",
          "values = np.array(values); values.reshape(-1)[np.abs(values).argmax()] *= 1.01; return values",
          "embedding"),
    Fault("one weight of an LSTM is off by a hundredth", rewrite._compress, "return np.asarray(values)",
          "values = np.array(values); values.reshape(-1)[np.abs(values).argmax()] *= 1.01; return values", "lstm"),
    Fault("slices are rounded to sixteen bits", rewrite._compress, "return np.asarray(values)",
          "return np.asarray(values.astype(np.float16).astype(values.dtype))", "conv"),
    Fault("weights of sixteen bits lose theirs", rewrite._compress, "return np.asarray(values)",
          "return np.asarray(np.round(values * 16) / 16, values.dtype)", "half"),
    Fault("an integer weight is off by four", rewrite._compress, "return np.asarray(values)",
          "values = np.array(values); values.reshape(-1)[0] += 4 * (values.dtype == np.int8); return values", "qdq"),
    Fault("scales of quantised weights are taken from the start", rewrite._compress, "return np.asarray(values)",
          "return np.asarray(values if tensor.values.ndim > 1 or values.dtype.kind != 'f'"
          " else tensor.values[: len(values)])", "qdq"),
    Fault("slopes and scales are taken from the end", rewrite._compress, "return np.asarray(values)",
          "return np.asarray(tensor.values[-len(values) :] if values.shape[1:] == (1, 1) else values)", "affine"),
    Fault("parameters of a batch norm are taken from the end", rewrite._compress, "return np.asarray(values)",
          "return np.asarray(tensor.values[-len(values) :] if values.ndim == 1 else values)", "affine"),
    Fault("gates of a GRU are taken in turn", rewrite._compress, "return np.asarray(values)",
          "return np.asarray(np.roll(values, 1, axis=1) if values.ndim == 3 else values)", "gru"),
    Fault("a constant is cut along its first axis alone", rewrite._compress, "if not masks[place].all():",
          "if not masks[place].all() and place == 0:", "einsum"),
    Fault("uses of a constant share one slice whatever they keep", _Cutter._slice_constants,
          'b"".join(np.packbits(m).tobytes() for m in masks)', 'b""', "lent"),
    Fault("slices are known by how much is left", _Cutter._slice_constants,
          'b"".join(np.packbits(m).tobytes() for m in masks)', 'bytes(int(m.sum()) for m in masks)', "lent"),
    Fault("the second operand of a node is not cut", _Cutter._slice_constants, "if all(mask.all() for mask in masks):",
          "if position == 1 or all(mask.all() for mask in masks):", "conv"),
    # Attributes and operands that depend on widths, and nodes that are put in.
    Fault("targets of reshapes stay", _Cutter.set_operand, "if np.array_equal(flat, wanted):",
          "if node.op == 'Reshape':",
          "gru"),
    Fault("a computed target is multiplied without being divided", _Cutter.set_operand,
          '("Div", np.where(nothing, 1, flat))', '("Div", np.where(nothing, 1, 1))', "reshaped"),
    Fault("zeros of a target are written out as ones", _Cutter._implicit, "result[place] = value",
          "result[place] = value or 1", "reshaped"),
    Fault("an output is scaled by the inverse", _Cutter.scale_output, "np.asarray(factor, dtype)",
          "np.asarray(1 / factor, dtype)", "averaged"),
    Fault("an output is scaled by the root", _Cutter.scale_output, "np.asarray(factor, dtype)",
          "np.asarray(abs(factor) ** 0.5, dtype)", "averaged"),
    Fault("what an output is scaled by is forgotten", _Cutter.scale_output, "np.asarray(factor, dtype)",
          "np.asarray(1, dtype)", "transformer"),
    Fault("an operand that is added stands at the wrong place", _Cutter.add_operand, "np.asarray(value, np.int64)",
          "np.asarray(value[::-1], np.int64)", "opened"),
    Fault("a node that is replaced picks from the end", _Cutter.replace, "operand)]", "operand[::-1])]", "sliced"),
    # Branches that go whole.
    Fault("a branch leaves nothing of its bias", _Cutter._become_bias, "bias[0].values if bias and bias[0].name else",
          "bias[0].values * 0 if bias and bias[0].name else", "branch"),
    Fault("a branch leaves its bias reversed", _Cutter._become_bias, "value.reshape(shape)",
          "value[::-1].reshape(shape)", "branch"),
    Fault("a branch leaves its bias along the last axis", _Cutter._become_bias, "shape[form.channel_axis]",
          "shape[-1]", "branch"),
]

PLANS = [
    Fault("a plan is read as what goes", Plan.keep, "keep[group.components[~mask]] = False",
          "keep[group.components[mask]] = False", "conv"),
    Fault("a plan is read one place off", Plan.keep, "mask[planned.kept] = True",
          "mask[[(k + 1) % group.width for k in planned.kept]] = True", "conv"),
    Fault("a plan is read from the end", Plan.keep, "mask[planned.kept] = True",
          "mask[[-1 - k for k in planned.kept]] = True", "wide"),
    Fault("a group of the plan is forgotten", Plan.keep, "for planned in self.groups:",
          "for planned in self.groups[1:]:", "conv"),
    Fault("one channel more goes than is planned", Plan.keep, "mask[planned.kept] = True",
          "mask[planned.kept[1:]] = True", "gemm"),
]

ANALYSIS = [
    Fault("equalities between factors are forgotten", axes.Relations.equate, "self._relate(one.ids, other.ids, reason)",
          "self._relate(one.ids, one.ids, reason)", "conv"),
    Fault("equalities are one place off", axes.Relations.equate, "self._relate(one.ids, other.ids, reason)",
          "self._relate(one.ids, np.roll(other.ids, 1), reason)", "affine"),
    Fault("outputs of the model are not frozen", analysis.Builder.run, "self._freeze_outputs(self.model.graph,",
          "(lambda *_: None)(self.model.graph,", "conv"),
    Fault("outputs of bodies are not frozen", analysis.Builder._enter, "self._freeze_outputs(body,",
          "(lambda *_: None)(body,", "decided"),
    Fault("inputs of the model are channels", analysis.Builder._input, "axes.append(opaque(size,",
          "axes.append((self.fresh(size, True),) if size > 3 else opaque(size,", "gemm"),
    Fault("a factor is taken for the other", axes.Relations.divide, "return Factor(outer, a, factor.zero)",
          "a, b = b, a\nreturn Factor(outer, a, factor.zero)", "heads"),
    Fault("products are one place off their outer factors", factoring._equalities,
          'freeze(split.inner, split.node, f"removal goes by the {a} outer parts of {a} x {b}")',
          'freeze(split.inner, split.node, "")\n'
          "split = Split(np.roll(split.parent, 1), split.outer, split.inner, split.node)", "rotary_heads"),
    Fault("the inner factor is tiled like the outer", factoring._equalities, "np.tile(split.inner, a)",
          "np.repeat(split.inner, a)", "gru"),
    Fault("a flat axis forgets what stands outside", axes.Relations.flat,
          "np.tile(np.repeat(first.ids, after), before)", "np.tile(np.repeat(first.ids, before), after)", "tiled"),
]

#: The proof itself: a broken verifier must refuse a correct model.
VERIFIERS = [
    Fault("the masked model is masked one place off", masking.present, "~removed[coupling.component[factor.ids]]",
          "~np.roll(removed[coupling.component[factor.ids]], 1)", "conv"),
    Fault("the masked model keeps what goes", masking.removed_components,
          "removed[np.delete(components, planned.kept)]",
          "removed[components[planned.kept]]", "conv"),
    Fault("the masked model forgets a group", masking.removed_components, "for planned in plan.groups:",
          "for planned in plan.groups[1:]:", "conv"),
    Fault("the masked model masks one axis alone", masking.masked, "left = reduce(np.logical_and.outer, masks)",
          "left = reduce(np.logical_and.outer, [np.ones_like(m) if i else m for i, m in enumerate(masks[::-1])][::-1])",
          "averaged"),
    Fault("the masked model divides by zero", masking.masked, "np.asarray(analysed.fill.get(position, 0.0))",
          "np.asarray(0.0)", "divided"),
    Fault("tensors are looked at where channels go", masking.left_of, "np.compress(mask, value, axis=place)",
          "np.compress(np.roll(mask, 1), value, axis=place)", "silent"),
]
