"""Faults in what reads a model and in what writes one."""

from __future__ import annotations

from planted import Fault

from hwpass import files, ir, order, streaming

LOADING = [
    Fault("local functions forget their attributes", files.inlined, "inliner.inline_local_functions(proto)",
          "inliner.inline_local_functions(proto)\nfor n in inlined.graph.node:\n    del n.attribute[:]",
          "functions"),
    Fault("a number is not taken for what it is", files._constant_value, '("value_float", np.float32)',
          '("value_float", np.int64)', "constants"),
    Fault("numbers are not taken for what they are", files._constant_value,
          "np.asarray(attributes[key], dtype=dtype)", "np.asarray(np.round(attributes[key]), dtype=dtype)", "constants"),
    Fault("one number of a list is read", files._constant_value, "np.asarray(attributes[key], dtype=dtype)",
          "np.asarray(attributes[key][0] if key == 'value_floats' else attributes[key], dtype=dtype)", "constants"),
    Fault("the numbers of a list are read from the end", files._constant_value,
          "np.asarray(attributes[key], dtype=dtype)",
          "np.asarray(attributes[key][::-1] if key == 'value_floats' else attributes[key], dtype=dtype)", "constants"),
    Fault("tensors of Constant nodes are read transposed", files._constant_value,
          'return attributes["value"]._values', 'return attributes["value"].values.T', "constants"),
    Fault("weights are read transposed", files._materialise, "numpy_helper.to_array(proto)",
          "numpy_helper.to_array(proto).reshape(proto.dims[::-1]).T", "conv"),
    Fault("weights are read in the other order", files._materialise, "numpy_helper.to_array(proto)",
          "numpy_helper.to_array(proto)[::-1]", "gemm"),
    Fault("weights are read rounded", files._materialise, "numpy_helper.to_array(proto)",
          "np.round(numpy_helper.to_array(proto), 2).astype(numpy_helper.to_array(proto).dtype)", "conv"),
    Fault("weights beside the model are read from the start", files._mapped, "int(info.offset or 0)", "0", "apart"),
    Fault("weights beside the model are read one number late", files._mapped, "offset=offset,",
          "offset=max(0, offset - 4),", "apart"),
    Fault("a node goes before what it reads", order.ordered, "_sort(graph, name)", "pass", "constants"),
    Fault("nodes are put in order without what bodies read", order._reads, "for body in _bodies(node):",
          "for body in ():", "late"),
    Fault("an attribute is lost", ir.Model.load.__func__, "model = cls(",
          "[n.attrs.pop('pads', None) for n in graph.nodes]\nmodel = cls(", "unpadded"),
    Fault("a Gemm loses its factors", ir.Model.load.__func__, "model = cls(",
          "[n.attrs.pop('alpha', None) for n in graph.nodes]\nmodel = cls(", "gemm"),
    Fault("an optional input is lost", ir.Model.load.__func__, "model = cls(",
          "[n.inputs.pop() for n in graph.nodes if n.op == 'Conv' and len(n.inputs) > 2]\nmodel = cls(", "conv"),
    Fault("the version of the operators is one that lacks what is there", ir.Model.load.__func__,
          "entry.version) for entry in", "min(17, entry.version)) for entry in", "averaged_18"),
    Fault("the version of the operators is older", ir.Model.load.__func__, "entry.version) for entry in",
          "11) for entry in", "softmax_13"),
    Fault("tensors of one shape are one", ir.Model.load.__func__, "_rename_generated(model)",
          "_rename_generated(model)\nfound = {}\nfor n in model.walk():\n"
          "    n.inputs = [found.setdefault(t.shape, t) if isinstance(t, gs.Constant) else t for t in n.inputs]",
          "wide"),
    Fault("names of bodies are those of the graph", ir.Model.load.__func__, "_rename_generated(model)",
          "_rename_generated(model)\nfor n in model.graph.nodes:\n    for body in bodies(n):\n"
          "        for m in body.nodes:\n            m.op = 'Sigmoid' if m.op == 'Tanh' else m.op",
          "decided"),
]

WRITING = [
    Fault("a weight written apart is zeros", streaming.write_single, "stream.write(np.asarray(held[name], order=\"C\")",
          "stream.write((0 * np.asarray(held[name], order=\"C\"))", "wide"),
    Fault("bytes of the last weight are zeros", streaming.write_single, "stream.write(np.asarray(held[name], order=\"C\")",
          "stream.write(np.asarray(held[name] * (name != names[-1]), held[name].dtype, order=\"C\")", "wide"),
    Fault("two weights of one shape are exchanged", streaming.write_single, "np.asarray(held[name], order=\"C\")",
          "np.asarray(next((v for n, v in held.items() if n != name and v.shape == held[name].shape), held[name]),"
          " order=\"C\")", "wide"),
    Fault("weights are written in the order of Fortran", streaming.write_single,
          "np.asarray(held[name], order=\"C\").reshape(-1)", "np.asarray(held[name]).T.copy().reshape(-1)", "wide"),
    Fault("weights lose a byte", streaming._header, "_VarintBytes(values.nbytes)", "_VarintBytes(values.nbytes - 1)",
          "wide"),
    Fault("dims are written reversed", streaming._header, "dims=values.shape", "dims=values.shape[::-1]", "oblong"),
    Fault("weights are written as another type", streaming._header, "dtype_to_onnx(values.dtype)", "6", "wide"),
    Fault("small weights are left out", streaming.write_single, "del proto.graph.initializer[:]",
          "copies = copies[1:]\ndel proto.graph.initializer[:]", "conv"),
    Fault("the written model has another graph", streaming.write_single, "graph = proto.graph.SerializeToString",
          "[n.attribute.pop() for n in proto.graph.node if n.op_type == 'Conv']\ngraph = proto.graph.SerializeToString",
          "unpadded"),
    Fault("an activation is lost on the way out", ir.Model.proto, "self._hoist(proto)",
          "self._hoist(proto)\nfor n in proto.graph.node:\n    n.op_type = n.op_type.replace('Tanh', 'Sigmoid')",
          "gemm"),
    Fault("weights of four bits are packed the other way round", ir.Model._packed,
          "numpy_helper.from_array(tensor._values, tensor.name)",
          "numpy_helper.from_array(tensor._values[::-1], tensor.name)", "nibbles"),
    # Only the last writing is wrong: what was proved is not what lies on the disk.
    Fault("the file alone loses a weight", ir.Model.save, "write_single(self, stream)",
          "c = next(t for n, t in sorted(self.constants().items()) if t.values.dtype == np.float32)\n"
          "c.values = c.values * (check is None)\n"
          "write_single(self, stream)", "conv"),
    Fault("the file alone is cut short", ir.Model.save, "if check is not None:",
          "if check is not None:\n    os.truncate(draft, draft.stat().st_size - 100)\n"
          "if check is not None:", "wide"),
    Fault("the file alone has one bit changed", ir.Model.save, "if check is not None:",
          "if check is not None:\n    d = bytearray(draft.read_bytes())\n    d[-5] ^= 0x40\n"
          "    draft.write_bytes(d)\nif check is not None:", "wide"),
    Fault("the file alone names its input otherwise", ir.Model.save, "write_single(self, stream)",
          "self.graph.inputs[0].name += '_' * (check is not None)\nwrite_single(self, stream)", "conv"),
    Fault("the file alone names its output otherwise", ir.Model.save, "write_single(self, stream)",
          "self.graph.outputs[0].name += '_' * (check is not None)\nwrite_single(self, stream)",
          "conv"),
    Fault("a file beside the model begins elsewhere", ir._write_external, 'str(offset)', 'str(offset + 4 * (offset > 0))',
          "wide"),
    Fault("a file beside the model holds zeros", ir._write_external, 'np.asarray(values, order="C").tofile(stream)',
          'np.asarray(0 * values, order="C").tofile(stream)', "wide"),
    Fault("weights beside the model are exchanged", ir._write_external, "offset, length = places[tensor.name]",
          "offset, length = places[max(n for n in places if held[n].shape == held[tensor.name].shape)]", "wide"),
]
