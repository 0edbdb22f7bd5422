"""Faults in what reads a model and in what writes one."""

from __future__ import annotations

from planted import Fault

from hwpass.model import model as ir
from hwpass.proto import canonical, exporting, external, functions, materialise, streaming
from hwpass.proto import toposort as order

LOADING = [
    Fault(
        "attributes of functions are not given what the call gives",
        functions._Bound._function,
        "for default in source.attribute_proto} | dict(given)",
        "for default in source.attribute_proto} | {}",
        "defaults",
    ),
    Fault(
        "attributes of functions have no default values",
        functions._Bound._function,
        "{default.name: default for default in source.attribute_proto}",
        "{}",
        "defaults",
    ),
    Fault(
        "one call of a function is like the other",
        functions._Bound._function,
        'b"".join(values[n].SerializeToString(deterministic=True) for n in sorted(values))',
        'b""',
        "defaults",
    ),
    Fault(
        "local functions forget their attributes",
        functions._Bound._bind,
        "node.attribute.extend(kept)",
        "pass",
        "functions",
    ),
    Fault("names of branches are one", canonical._Names._scope, "if name in self.taken:", "if False:", "decided_apart"),
    Fault(
        "a tensor of another name is read",
        canonical._replace,
        "tensors[position] = names[name]",
        "tensors[position] = next(iter(names))",
        "decided_apart",
    ),
    Fault(
        "entries of a sparse weight lie elsewhere",
        canonical.dense,
        "whole[tuple(where.T)] = values",
        "whole[tuple(where.T[::-1])] = values",
        "sparse",
    ),
    Fault(
        "a number is not taken for what it is",
        materialise._constant_value,
        '("value_float", np.float32)',
        '("value_float", np.int64)',
        "constants",
    ),
    Fault(
        "numbers are not taken for what they are",
        materialise._constant_value,
        "np.asarray(attributes[key], dtype=dtype)",
        "np.asarray(np.round(attributes[key]), dtype=dtype)",
        "constants",
    ),
    Fault(
        "one number of a list is read",
        materialise._constant_value,
        "np.asarray(attributes[key], dtype=dtype)",
        "np.asarray(attributes[key][0] if key == 'value_floats' else attributes[key], dtype=dtype)",
        "constants",
    ),
    Fault(
        "the numbers of a list are read from the end",
        materialise._constant_value,
        "np.asarray(attributes[key], dtype=dtype)",
        "np.asarray(attributes[key][::-1] if key == 'value_floats' else attributes[key], dtype=dtype)",
        "constants",
    ),
    Fault(
        "tensors of Constant nodes are read transposed",
        materialise._constant_value,
        'return adapter.held(attributes["value"])',
        'return attributes["value"].values.T',
        "constants",
    ),
    Fault(
        "weights are read transposed",
        materialise._materialise,
        "numpy_helper.to_array(proto)",
        "numpy_helper.to_array(proto).reshape(proto.dims[::-1]).T",
        "conv",
    ),
    Fault(
        "weights are read in the other order",
        materialise._materialise,
        "numpy_helper.to_array(proto)",
        "numpy_helper.to_array(proto)[::-1]",
        "gemm",
    ),
    Fault(
        "weights are read rounded",
        materialise._materialise,
        "numpy_helper.to_array(proto)",
        "np.round(numpy_helper.to_array(proto), 2).astype(numpy_helper.to_array(proto).dtype)",
        "conv",
    ),
    Fault("weights beside the model are read from the start", external.mapped, "offset=offset,", "offset=0,", "apart"),
    Fault(
        "weights beside the model are read one number late",
        external.mapped,
        "offset=offset,",
        "offset=max(0, offset - 4),",
        "apart",
    ),
    Fault("a node goes before what it reads", order.ordered, "_sort(graph, name)", "pass", "constants"),
    Fault(
        "nodes are put in order without what bodies read",
        order._reads,
        "for body in bodies(node):",
        "for body in ():",
        "late",
    ),
    Fault(
        "an attribute is lost",
        ir.Model.load,
        "model = cls(",
        "[n.attrs.pop('pads', None) for n in graph.nodes]\nmodel = cls(",
        "unpadded",
    ),
    Fault(
        "a Gemm loses its factors",
        ir.Model.load,
        "model = cls(",
        "[n.attrs.pop('alpha', None) for n in graph.nodes]\nmodel = cls(",
        "gemm",
    ),
    Fault(
        "an optional input is lost",
        ir.Model.load,
        "model = cls(",
        "[n.inputs.pop() for n in graph.nodes if n.op == 'Conv' and len(n.inputs) > 2]\nmodel = cls(",
        "conv",
    ),
    Fault(
        "the version of the operators is one that lacks what is there",
        ir.Model.load,
        "entry.version) for entry in",
        "min(17, entry.version)) for entry in",
        "averaged_18",
    ),
    Fault(
        "the version of the operators is older",
        ir.Model.load,
        "entry.version) for entry in",
        "11) for entry in",
        "softmax_13",
    ),
    Fault(
        "tensors of one shape are one",
        ir.Model.load,
        "_rename_generated(model)",
        "_rename_generated(model)\nfound_ = {}\nfor n in model.walk():\n"
        "    n.inputs = [found_.setdefault(t.shape, t) if isinstance(t, gs.Constant) else t for t in n.inputs]",
        "wide",
    ),
    Fault(
        "operators of bodies are others",
        ir.Model.load,
        "_rename_generated(model)",
        "_rename_generated(model)\nfor n in model.graph.nodes:\n    for body in bodies(n):\n"
        "        for m in body.nodes:\n            m.op = 'Sigmoid' if m.op == 'Tanh' else m.op",
        "decided",
    ),
]

WRITING = [
    Fault(
        "a weight written apart is zeros",
        streaming.contiguous,
        'np.asarray(values, order="C")',
        'np.asarray(0 * values, order="C")',
        "wide",
    ),
    Fault(
        "bytes of the last weight are zeros",
        streaming.write_single,
        "contiguous(constants[name].values)",
        "contiguous(constants[name].values * np.asarray(name != list(headers)[-1], constants[name].values.dtype))",
        "wide",
    ),
    Fault(
        "two weights of one shape are exchanged",
        streaming.write_single,
        "contiguous(constants[name].values)",
        "contiguous(next((t.values for n, t in constants.items()"
        " if n != name and t.values.shape == constants[name].values.shape), constants[name].values))",
        "wide",
    ),
    Fault(
        "weights are written in the order of Fortran",
        streaming.contiguous,
        'np.asarray(values, order="C")',
        "values.T.copy()",
        "wide",
    ),
    Fault(
        "weights lose a byte",
        streaming._header,
        "adapter.varint(values.nbytes)",
        "adapter.varint(values.nbytes - 1)",
        "wide",
    ),
    Fault(
        "dims are written reversed", exporting.tensor_proto, "dims=values.shape", "dims=values.shape[::-1]", "oblong"
    ),
    Fault(
        "weights are written as another type",
        exporting.tensor_proto,
        "kind = helper.np_dtype_to_tensor_dtype(values.dtype)",
        "kind = TensorProto.INT32",
        "wide",
    ),
    Fault(
        "small weights are written in the other order",
        exporting.tensor_proto,
        'return numpy_helper.from_array(np.asarray(values, order="C"), tensor.name)',
        "return numpy_helper.from_array(np.asarray(values[::-1] if values.ndim else values, order='C'), tensor.name)",
        "conv",
    ),
    Fault(
        "small weights are left out",
        streaming.write_single,
        "del proto.graph.initializer[:]",
        "copies = copies[1:]\ndel proto.graph.initializer[:]",
        "conv",
    ),
    Fault(
        "an attribute is lost on the way out",
        exporting.Exporter.node,
        "made.attribute.append(self.attribute(node, name, value))",
        "made.attribute.extend([self.attribute(node, name, value)] if name != 'pads' else [])",
        "unpadded",
    ),
    Fault(
        "an input is lost on the way out",
        exporting.Exporter.node,
        "t.name for t in node.inputs",
        "t.name for t in node.inputs[: 2 if node.op == 'Conv' else None]",
        "conv",
    ),
    Fault(
        "an activation is lost on the way out",
        exporting.Exporter.node,
        "op_type=node.op,",
        "op_type=node.op.replace('Tanh', 'Sigmoid'),",
        "gemm",
    ),
    Fault(
        "the written model has another graph",
        streaming.write_single,
        "graph = proto.graph.SerializeToString",
        "[n.attribute.pop() for n in proto.graph.node if n.op_type == 'Conv']\ngraph = proto.graph.SerializeToString",
        "unpadded",
    ),
    Fault(
        "weights of four bits are written as they stand",
        exporting.tensor_proto,
        'return numpy_helper.from_array(np.asarray(values, order="C"), tensor.name)',
        "return numpy_helper.from_array(np.asarray(values[::-1] if values.dtype.itemsize * 8 == 8"
        " else values, order='C'), tensor.name)",
        "nibbles",
    ),
    Fault(
        "a file beside the model begins elsewhere",
        ir._write_external,
        "str(start)",
        "str(start + 4 * (start > 0))",
        "wide",
    ),
    Fault(
        "a file beside the model holds zeros",
        ir._write_external,
        "stream.write(contiguous(constants[tensor.name].values))",
        "stream.write(contiguous(0 * constants[tensor.name].values))",
        "wide",
    ),
    Fault(
        "weights beside the model are exchanged",
        ir._write_external,
        "stream.write(contiguous(constants[tensor.name].values))",
        "stream.write(contiguous(constants[max(n for n in constants"
        " if constants[n].values.shape == constants[tensor.name].values.shape)].values))",
        "wide",
    ),
]

#: Only the last writing is wrong: what was proved is not what lies on the disk.
READ_BACK = [
    Fault(
        "the file alone loses a weight",
        ir.Model.save,
        "self.write(draft)",
        "c = next(t for n, t in sorted(self.constants().items()) if t.values.dtype == np.float32)\n"
        "c.values = c.values * (check is None)\n"
        "self.write(draft)",
        "conv",
    ),
    Fault(
        "the file alone has a weight that is off by a hundredth",
        ir.Model.save,
        "self.write(draft)",
        "c = next(t for n, t in sorted(self.constants().items()) if t.values.dtype == np.float32)\n"
        "c.values = c.values * np.float32(1 + 0.01 * (check is not None))\n"
        "self.write(draft)",
        "lstm",
    ),
    Fault(
        "the file alone is cut short",
        ir.Model.save,
        "if check is not None:",
        "if check is not None:\n    os.truncate(draft, draft.stat().st_size - 100)\nif check is not None:",
        "wide",
    ),
    Fault(
        "the file alone has one bit changed",
        ir.Model.save,
        "if check is not None:",
        "if check is not None:\n    d = bytearray(draft.read_bytes())\n    d[-5] ^= 0x40\n"
        "    draft.write_bytes(d)\nif check is not None:",
        "wide",
    ),
    Fault(
        "the file alone names its input otherwise",
        ir.Model.save,
        "self.write(draft)",
        "self.graph.inputs[0].name += '_' * (check is not None)\nself.write(draft)",
        "conv",
    ),
    Fault(
        "the file alone names its output otherwise",
        ir.Model.save,
        "self.write(draft)",
        "self.graph.outputs[0].name += '_' * (check is not None)\nself.write(draft)",
        "conv",
    ),
]
