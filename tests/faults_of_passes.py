"""Faults in the passes that prepare a model, refit it, and write its norms in standard operators."""

from __future__ import annotations

from planted import Fault

from hwpass.coupling import attention_heads, moved_columns
from hwpass.coupling import constant_channels as constants
from hwpass.coupling import redundant_channels as redundancy
from hwpass.ops.constants import padded
from hwpass.proto import folding
from hwpass.surgery import (
    affine_steps,
    compensation,
    computed_shapes,
    hard_sigmoids,
    head_rotation,
    norm_forms,
    redirection,
    rotation,
    scaled_products,
    unpacking,
    vocabulary,
)
from hwpass.surgery import batch_norms as fuse_bn
from hwpass.surgery import constant_edits as edits
from hwpass.surgery import constant_folding as fold
from hwpass.surgery.compensation import Compensation

# A fault to a line or two, as a table.
# fmt: off
FOLD = [
    Fault("a reshaped weight is folded in the order of Fortran", fold._view, "for i, v in enumerate(target)])",
          "for i, v in enumerate(target)], 'F')", "standardised"),
    Fault("a weight is standardised without epsilon", fold._standardised, 'float(node.attrs.get("epsilon", 1e-5))',
          "0.0", "standardised"),
    Fault("a weight is standardised without its root", fold._standardised, "np.sqrt(variance +", "(variance +",
          "standardised"),
    Fault("a weight is standardised over all channels", fold._standardised, "if a != 1)", "if a != 9)", "standardised"),
    Fault("a weight is standardised without its bias", fold._standardised, "+ bias.reshape(shape)",
          "+ 0 * bias.reshape(shape)", "standardised"),
    Fault("the other branch of an If is taken", fold._flatten_conditionals, '"then_branch" if bool',
          '"then_branch" if not bool',
          "foldable"),
    Fault("constants of one shape are merged though they differ", fold._merge_equal,
          "if t is tensor or np.array_equal(t.values, values)", "if t is tensor or True", "nearly_equal"),
    Fault("an Identity is bypassed to what its reader reads first", fold._bypass_identities,
          "reader.inputs[position] = source", "reader.inputs[position] = reader.inputs[1 - position]", "identity"),
    Fault("extents are read one further", folding._extents, 'shape.attrs.get("start", 0)',
          'shape.attrs.get("start", 0) + 1', "extents"),
    Fault("results of folding are given in another order",
          folding.Folding._run,
          "zip(names, session.run(names, feed), strict=True)",
          "zip(names, session.run(names[::-1], feed), strict=True)",
          "folded"),
    Fault("what is folded is rounded", folding.Folding._run, "np.array(value) for",
          "np.round(value, 2).astype(value.dtype) for", "folded"),
    Fault("attributes are forgotten while folding", folding.Folding._model, "map(exporter.node, nodes)",
          "map(lambda n: onnx.NodeProto(op_type=n.op, input=[t.name for t in n.inputs],"
          " output=[t.name for t in n.outputs]), nodes)", "folded"),
]

SHAPES = [
    Fault("extents that are not known are one", computed_shapes._target, "target.append(-1)", "target.append(1)",
          "computed_shapes"),
    Fault("extents are copied from other places", computed_shapes._target, "given[place : place + 1] == [dim]",
          "dim in given", "computed_shapes"),
    Fault("marks of an expansion become two", computed_shapes._replaced, "others[place], part.values)",
          "others[place] + 1, part.values)", "computed_shapes"),
]

FUSE = [
    Fault("epsilon is forgotten", fuse_bn._fuse, 'float(norm.attrs.get("epsilon", 1e-5))', "0.0", "fused"),
    Fault("the mean is added", fuse_bn._fuse, "bias - mean * factor", "bias + mean * factor", "fused"),
    Fault("the root is forgotten", fuse_bn._fuse, "np.sqrt(variance +", "(variance +", "fused"),
    Fault("the norm's bias is dropped", fuse_bn._fuse, "bias - mean", "0 * bias - mean", "fused"),
]

SCALES = [
    Fault("the product's bias is dropped", scaled_products.scale_outputs, "known * factor", "0 * known * factor",
          "fused"),
    Fault("the product's bias is not scaled", scaled_products.scale_outputs, "known * factor +", "known +", "fused"),
    Fault("weights are scaled along their other axis", scaled_products.scale_outputs,
          "axis = rule_for(product).weight_out(product)", 'axis = 1 if product.op != "Conv" else 0', "fused"),
    Fault("weights are not scaled", scaled_products._scaled, "weight * factor", "weight * 1.0 + 0 * factor", "fused"),
    Fault("a shift in front is not in the bias", scaled_products.scale_inputs,
          "added if known is None else known + added", "0 * added if known is None else known", "scaled"),
    Fault("inputs are scaled group by group in another order", scaled_products.scale_inputs,
          "_scaled(seen, factor.reshape(over))", "_scaled(seen, factor[::-1].reshape(over))", "scaled"),
    Fault("a shift goes past zeros beside the image", affine_steps._unpadded,
          'not any(product.attrs.get("pads", ()))', "True", "scaled"),
    Fault("a shift that stays is not divided", affine_steps._Folding._exchange, "sign * step.shift / scale.factor",
          "sign * step.shift * np.ones_like(scale.factor)", "scaled"),
    Fault("a bias that stays is not scaled", affine_steps._Folding._behind_bias, "bias.shift * step.factor",
          "bias.shift * np.ones_like(step.factor)", "scaled"),
    Fault("a difference is taken for a sum", affine_steps.step_of, "values if first else -values", "values", "scaled"),
    Fault("a quotient is taken for a product", affine_steps.step_of, "np.asarray(1.0 / values)", "values", "scaled"),
    Fault("a hard sigmoid is not shifted", hard_sigmoids._fuse, '"beta": offset / high', '"beta": offset', "scaled"),
    Fault("a hard sigmoid has another slope", hard_sigmoids._fuse, '"alpha": slope / high', '"alpha": slope', "scaled"),
    Fault("any upper bound is divided by", hard_sigmoids._divided, "> ROUNDING", "> 9", "unequal_bounds"),
]

REDUNDANT = [
    Fault("a duplicate is read from no other channel", redirection._redirect,
          "+= values[components == duplicate]", "+= 0 * values[components == duplicate]", "redundant"),
    Fault("a duplicate is subtracted", redirection._redirect, "+= values[components == duplicate]",
          "-= values[components == duplicate]", "redundant"),
    Fault("constants leave nothing in the bias", redirection._redirect, "if np.any(shift):", "if False:",
          "redundant"),
    Fault("constants leave their negative in the bias", redirection._redirect, "edits.add(*place, shift)",
          "edits.add(*place, -shift)", "redundant"),
    Fault("channels that are read go", redirection._redirect, "values[free] = 0", "values[~free] = 0", "redundant"),
    Fault("channels of nearly equal weights are duplicates", redundancy._rows,
          "np.ascontiguousarray(values[positions])", "np.round(values[positions])", "alike"),
    Fault("biases do not tell channels apart", redundancy._rows,
          "np.ascontiguousarray(values[positions])",
          "np.ascontiguousarray(values[positions] if values.ndim > 1 else np.zeros_like(values[positions]))", "alike"),
    Fault("a constant is the bias whatever comes in", constants._product,
          "~table[:, ~usable].any(axis=1)", "~table[:, ~usable].all(axis=1)", "redundant"),
    Fault("padding is forgotten", padded, 'any(node.attr("pads") or [])', "False", "padded_constant"),
    Fault("a shift is added with the wrong sign", edits.ConstantEdits.add, "bias += shift", "bias -= shift",
          "redundant"),
]

HEADS = [
    Fault("keys are turned like queries", head_rotation._turn, "shared.readers, back)", "shared.readers, forth)",
          "turned_heads"),
    Fault("what should be the inverse is none", head_rotation.principal_basis, "(vectors / scale).T",
          "(vectors * scale).T", "turned_heads"),
    Fault("biases are left as they were", head_rotation._turn, "if weight.bias is not None:", "if False:",
          "turned_heads"),
    Fault("a scale that is read from an extent becomes another", head_rotation.rotate_heads, "np.array(value)",
          "np.array(2 * value)", "turned_heads"),
    Fault("scales are lost with a packed product", unpacking._apart,
          'factor / number if step.op == "Div" else factor * number', "factor", "packed_heads"),
    Fault("a divisor of a packed product multiplies", unpacking._apart, 'if step.op == "Div"', "if False",
          "packed_heads"),
    Fault("the first columns of a packed product are everyone's", unpacking._apart,
          "columns = source.weight.node.gs, source.end, layout.columns.reshape(-1)",
          "columns = source.weight.node.gs, source.end, np.sort(layout.columns.reshape(-1)) % 12", "packed_heads"),
    Fault("heads are turned though others read them", attention_heads._alone, "if outside is not None:", "if False:",
          "watched_heads"),
    Fault("numbers of each dimension are one for all", moved_columns.scalar, "constant.values.size == 1",
          "constant.values.size >= 1", "rotary_heads"),
]

ROTATE = [
    Fault("readers are not turned back", rotation._turn, "axes.T * factor)", "np.eye(len(axes)) * factor)",
          "transformer"),
    Fault("readers are turned by the inverse", rotation._turn, "axes.T * factor)", "axes * factor)",
          "transformer"),
    Fault("writers are turned by the inverse", rotation._turn, "matrix = axes.T @ matrix",
          "matrix = axes @ matrix", "transformer"),
    Fault("axes are not of one length", rotation.principal_axes, "return np.asarray(vectors *",
          "return 1.1 * np.asarray(vectors *", "transformer"),
    Fault("what is written is not centred", rotation._turn, "np.eye(stream.width) - 1.0 / stream.width",
          "np.eye(stream.width)", "transformer"),
    Fault("scales of norms are dropped", rotation._turn, "factor = scale.values.astype(np.float64)[order]",
          "factor = 0 * scale.values.astype(np.float64)[order] + 1", "transformer"),
    Fault("biases of norms are dropped", rotation._turn, "np.any(bias.values)", "False", "transformer"),
    Fault("biases of norms are subtracted", rotation._shift,
          "shift = bias @ per_input[use.order[0]]",
          "shift = -bias @ per_input[use.order[0]]", "transformer"),
    Fault("scales of what is written are dropped", rotation._turn,
          "matrix if use.scale is None else matrix * use.scale",
          "matrix", "composed"),
    Fault("norms keep their scale beside the readers'", rotation._turn, "np.ones_like(scale.values)",
          "scale.values", "transformer"),
    Fault("epsilon is read from elsewhere", rotation._composed,
          "float(epsilon.values.reshape(-1)[0])", "1e-5", "composed"),
]

LOWER = [
    Fault("the factor behind a norm is dropped", norm_forms.lowered_norm, "scale.values * factor[1].values",
          "scale.values", "transformer"),
    Fault("the factor behind an RMS norm is dropped", norm_forms.lowered_norm, "scale.values * factor[1].values",
          "scale.values", "transformer_23"),
    Fault("epsilon of a norm is the usual one", norm_forms.lowered_norm,
          'float(norm.attrs.get("epsilon", 1e-5))', "1e-5", "transformer"),
    Fault("the mean is over another axis", norm_forms.lowered_norm, 'then("ReduceMean", square, axes=[-1], keepdims=1)',
          'then("ReduceMean", square, axes=[1], keepdims=1)', "transformer"),
    Fault("a norm has no root", norm_forms.lowered_norm, 'then("Sqrt", then("Add", mean,',
          'then("Abs", then("Add", mean,', "transformer"),
    Fault("a thinned stream gets a layer normalisation", norm_forms.lowered_norm, "if whole and opset >= 17:",
          "if opset >= 17:", "transformer"),
    Fault("a layer normalisation loses its bias", norm_forms.lowered_norm,
          "*([bias[1]] if bias is not None else [])]", "]", "centred"),
    Fault("an RMS norm is over another axis", norm_forms.lowered_norm,
          '"RMSNormalization", norm.name, {"axis": -1,', '"RMSNormalization", norm.name, {"axis": 0,',
          "transformer_23"),
]

SHARE = [
    Fault("rows that begin alike are equal", vocabulary.share_rows, "blake2b(row.tobytes()",
          "blake2b(row.tobytes()[:1]", "equal_rows"),
    Fault("the last of equal rows gives its place", vocabulary.share_rows, "numbers[place] = known[key]",
          "numbers[place] = len(first) - 1", "equal_rows"),
    Fault("rows are held in another order than their numbers say", vocabulary.share_rows, "values[first]",
          "values[first[::-1]]", "equal_rows"),
]

REFIT = [
    Fault("a fit's bias has another shape", Compensation._conv, "found.bias.reshape(-1), weight.dtype",
          "found.bias.reshape(-1)[:-1], weight.dtype",
          "refit_conv"),
    Fault("a fit stands at the input behind its own", compensation._store, "if position < len(node.inputs):",
          "position += node.op == 'MatMul'\nif position < len(node.inputs):", "refit_gemm"),
    Fault("a fit is of another type", compensation._store, "value.astype(dtype)", "value.astype(np.float64)",
          "refit_conv"),
    Fault("a fit takes the activation behind it away", compensation._store, "constant = gs.Constant(",
          "for t in node.outputs[0].outputs:\n    t.op = 'Neg' if t.op == 'Relu' else t.op\nconstant = gs.Constant(",
          "refit_conv"),
    Fault("a refit thinned stream gets a layer normalisation", norm_forms.lowered_norm,
          "if whole and opset >= 17:",
          "if opset >= 17:", "refit_transformer"),
    Fault("a refit layer normalisation loses its bias", norm_forms.lowered_norm,
          "*([bias[1]] if bias is not None else [])]", "]", "refit_centred"),
    Fault("a refit norm has no root", norm_forms.lowered_norm, 'then("Sqrt", then("Add", mean,',
          'then("Abs", then("Add", mean,',
          "refit_transformer"),
    Fault("a fit is stored with an operator changed", compensation._store, "constant = gs.Constant(",
          "node.attrs.pop('pads', None)\nconstant = gs.Constant(", "refit_conv"),
    Fault("a fit of a Gemm has another type of product", compensation._store, "constant = gs.Constant(",
          "node.attrs.update({'alpha': 1.5} if node.op == 'Gemm' else {})\nconstant = gs.Constant(", "refit_wide"),
    Fault("a fit of an LSTM turns its direction", compensation._store, "constant = gs.Constant(",
          "node.attrs.update({'direction': 'reverse'} if node.op == 'LSTM' else {})\nconstant = gs.Constant(",
          "refit_lstm"),
]

#: What a fit makes of weights is proved to be in its place, not to be good: the values are judged on data, where
#: fidelity is asked for.
FITS = [
    Fault("a fit is stored transposed", Compensation._matmul, "found.weights.T if turned else found.weights",
          "found.weights", "held_to_data"),
    Fault("a fit has the other sign", compensation._store, "np.asarray(value.astype(dtype), order=\"C\")",
          "np.asarray(-value.astype(dtype), order='C')", "held_to_data"),
    Fault("the bias of a fit is that of another channel", Compensation._matmul,
          "_store(target, 2, found.bias, weight.dtype)", "_store(target, 2, found.bias[::-1], weight.dtype)",
          "held_to_data"),
    Fault("a fit is that of the outputs in the other order", compensation._store,
          "np.asarray(value.astype(dtype), order=\"C\")", "np.asarray(value.astype(dtype)[::-1], order='C')",
          "held_to_data"),
]
