"""Faults in the passes that take out waste, mask weights and factor products."""

from __future__ import annotations

from planted import Fault

from hwpass.planning import factoring, weight_pruning
from hwpass.proto import sparse
from hwpass.surgery import elimination, low_rank
from hwpass.surgery.sparsity_patterns import Pattern
from hwpass.surgery.weight_views import WeightView

# A fault to a line or two, as a table.
# fmt: off
ELIMINATE = [
    Fault("orders of axes are put together the wrong way round", elimination._shorten,
          "[first[axis] for axis in second]", "[second[axis] for axis in first]", "wasteful"),
    Fault("any order of axes is the one there is", elimination._idle, "perm == sorted(perm)", "bool(perm)", "wasteful"),
    Fault("a cast that loses digits is undone", elimination._holds, 'np.can_cast(given, made, "safe")', "True",
          "wasteful"),
    Fault("attributes do not tell nodes apart", elimination._merge, "tuple(_attributes(node)), ", "", "wasteful"),
    Fault("constants whose ends agree are alike", elimination._Constants.__call__, "_same(t.values, values)", "True",
          "wasteful"),
]

MASKS = [
    Fault("one of four more is kept", Pattern.mask, "[..., : self.n]", "[..., : self.n + 1]", "patterned"),
    Fault("zeros lie along the outputs", WeightView.laid, "(0, 3, 1, 2) if", "(0, 1, 3, 2) if", "patterned"),
    Fault("what is masked keeps its value", weight_pruning.WeightPruning._alone,
          "np.where(self.masks[name], values, values.dtype.type(0))", "values", "patterned"),
    Fault("what is kept is doubled", weight_pruning.WeightPruning._alone, "np.where(self.masks[name], values,",
          "np.where(self.masks[name], values * 2,", "patterned"),
    Fault("a bias changes too", weight_pruning.WeightPruning._alone, "old = nodes[name].inputs[1]",
          "if len(nodes[name].inputs) > 2:\n    bias = nodes[name].inputs[2]\n"
          "    nodes[name].inputs[2] = gs.Constant(bias.name + 'x', bias.values + 1)\n"
          "old = nodes[name].inputs[1]", "patterned"),
]

SPARSE = [
    Fault("values of a sparse tensor are in the other order", sparse.sparse_proto, "flat[where]", "flat[where][::-1]",
          "thin"),
    Fault("places of a sparse tensor are those of the turned weight", sparse.sparse_proto,
          "np.ascontiguousarray(values).reshape(-1)", "np.ascontiguousarray(values.T).reshape(-1)", "thin"),
    Fault("a sparse tensor loses its last value", sparse.sparse_proto, "np.flatnonzero(_bits(flat))",
          "np.flatnonzero(_bits(flat))[:-1]", "thin"),
]

FACTORS = [
    Fault("both factors have the window", low_rank.factor, "set(range(axes)) - set(taken)", "set(range(axes))", "low"),
    Fault("a factor loses its padding", low_rank._window, "pads[a] if a % axes in taken else 0", "0", "low"),
    Fault("a factor is declared that is not there", factoring.Factoring.apply, 'FactoredLayer(f"{name}_rank"',
          'FactoredLayer(f"{name}_none"', "low"),
    Fault("the product that is declared is another", low_rank.product, "a[..., 0], b[:, :, 0, :]",
          "2 * a[..., 0], b[:, :, 0, :]", "low"),
]
