"""Damaged models: sound ones of several kinds, and seeded changes that may or may not break them."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper, numpy_helper
from sound_models import SOUND

Damage = Callable[[ModelProto, random.Random], None]
DAMAGES: list[Damage] = []


def damage(function: Damage) -> Damage:
    """Enter a change into the table."""
    DAMAGES.append(function)
    return function


def damaged(seed: int) -> tuple[bytes, str]:
    """The bytes of a model with one to three changes, and their names."""
    r = random.Random(seed)
    model = r.choice(SOUND)()
    chosen = [r.choice(DAMAGES) for _ in range(r.choice((1, 1, 1, 2, 3)))]
    done = []
    for change in chosen:
        try:
            change(model, r)
            done.append(change.__name__)
        except (IndexError, ValueError, TypeError):
            continue  # nothing left to change in that way
    data = model.SerializeToString()
    if r.random() < 0.15:
        data = _bytes(data, r)
        done.append("bytes")
    return data, ", ".join(done)


def _bytes(data: bytes, r: random.Random) -> bytes:
    changed = bytearray(data)
    way = r.randrange(3)
    if way == 0:
        return bytes(changed[: r.randrange(1, len(changed))])
    for _ in range(r.randrange(1, 4)):
        changed[r.randrange(len(changed))] = r.randrange(256)
    if way == 2:
        place = r.randrange(len(changed))
        del changed[place : place + r.randrange(1, 9)]
    return bytes(changed)


def _graphs(model: ModelProto) -> list[GraphProto]:
    found = [model.graph]
    for graph in found:
        found += [a.g for node in graph.node for a in node.attribute if a.type == AttributeProto.GRAPH]
    return found


def _graph(model: ModelProto, r: random.Random) -> GraphProto:
    return r.choice(_graphs(model))


def _node(model: ModelProto, r: random.Random) -> onnx.NodeProto:
    nodes: list[onnx.NodeProto] = list(_graph(model, r).node)
    return r.choice(nodes)


def _tensor(model: ModelProto, r: random.Random) -> TensorProto:
    tensors: list[TensorProto] = [t for graph in _graphs(model) for t in graph.initializer]
    tensors += [a.t for g in _graphs(model) for n in g.node for a in n.attribute if a.type == AttributeProto.TENSOR]
    return r.choice(tensors)


def _value(model: ModelProto, r: random.Random) -> onnx.ValueInfoProto:
    graph = _graph(model, r)
    values: list[onnx.ValueInfoProto] = [*graph.input, *graph.output]
    return r.choice(values)


def _pop(items: object, r: random.Random) -> None:
    del items[r.randrange(len(items))]  # type: ignore[attr-defined, arg-type]


@damage
def initializer_gone(model: ModelProto, r: random.Random) -> None:
    _pop(_graph(model, r).initializer, r)


@damage
def initializer_twice(model: ModelProto, r: random.Random) -> None:
    graph = _graph(model, r)
    graph.initializer.add().CopyFrom(r.choice(list(graph.initializer)))


@damage
def node_gone(model: ModelProto, r: random.Random) -> None:
    _pop(_graph(model, r).node, r)


@damage
def node_twice(model: ModelProto, r: random.Random) -> None:
    graph = _graph(model, r)
    graph.node.add().CopyFrom(r.choice(list(graph.node)))


@damage
def nodes_shuffled(model: ModelProto, r: random.Random) -> None:
    graph = _graph(model, r)
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in graph.node]
    r.shuffle(nodes)
    del graph.node[:]
    graph.node.extend(nodes)


@damage
def no_nodes(model: ModelProto, r: random.Random) -> None:
    del _graph(model, r).node[:]


@damage
def dims(model: ModelProto, r: random.Random) -> None:
    tensor = _tensor(model, r)
    sizes = [0, 1, 2, 3, 7, -1, 1 << 20, 1 << 40, (1 << 62) + 1, -(1 << 62)]
    tensor.dims[r.randrange(len(tensor.dims))] = r.choice(sizes)


@damage
def dims_more_or_fewer(model: ModelProto, r: random.Random) -> None:
    tensor = _tensor(model, r)
    if r.random() < 0.5:
        tensor.dims.append(r.choice([0, 1, 2]))
    else:
        _pop(tensor.dims, r)


@damage
def dims_swapped(model: ModelProto, r: random.Random) -> None:
    tensor = _tensor(model, r)
    sizes = list(tensor.dims)
    r.shuffle(sizes)
    del tensor.dims[:]
    tensor.dims.extend(sizes)


@damage
def data_type(model: ModelProto, r: random.Random) -> None:
    _tensor(model, r).data_type = r.choice([0, *range(1, 26), 99, -1])


@damage
def data_cut(model: ModelProto, r: random.Random) -> None:
    tensor = _tensor(model, r)
    tensor.raw_data = tensor.raw_data[: r.randrange(len(tensor.raw_data))]


@damage
def data_longer(model: ModelProto, r: random.Random) -> None:
    _tensor(model, r).raw_data += b"\0" * r.choice([1, 4, 64])


@damage
def data_twice(model: ModelProto, r: random.Random) -> None:
    r.choice([_tensor(model, r).float_data, _tensor(model, r).int64_data]).append(1)


@damage
def data_elsewhere(model: ModelProto, r: random.Random) -> None:
    tensor = _tensor(model, r)
    tensor.data_location = TensorProto.EXTERNAL
    if r.random() < 0.5:
        tensor.ClearField("raw_data")
    for key in r.sample(["location", "offset", "length", "checksum"], r.randrange(4)):
        entry = tensor.external_data.add()
        texts = ["0", "-4", "x", "/etc/passwd", "../m.onnx", "", "1e3", "9" * 40, "a\0b"]
        entry.key, entry.value = key, r.choice(texts)


@damage
def weird_values(model: ModelProto, r: random.Random) -> None:
    tensor = _tensor(model, r)
    tensor.raw_data = bytes(r.randrange(256) for _ in range(len(tensor.raw_data)))


@damage
def inputs_swapped(model: ModelProto, r: random.Random) -> None:
    node = _node(model, r)
    names = list(node.input)
    r.shuffle(names)
    node.input[:] = names


@damage
def input_gone(model: ModelProto, r: random.Random) -> None:
    _pop(_node(model, r).input, r)


@damage
def input_more(model: ModelProto, r: random.Random) -> None:
    _node(model, r).input.append(r.choice(["", "x", "nowhere", _node(model, r).output[0]]))


@damage
def input_other(model: ModelProto, r: random.Random) -> None:
    node = _node(model, r)
    node.input[r.randrange(len(node.input))] = r.choice(["", "nowhere", node.output[0], _node(model, r).output[0]])


@damage
def output_gone(model: ModelProto, r: random.Random) -> None:
    _pop(_node(model, r).output, r)


@damage
def output_more(model: ModelProto, r: random.Random) -> None:
    _node(model, r).output.append(r.choice(["", "more", _node(model, r).output[0]]))


@damage
def output_other(model: ModelProto, r: random.Random) -> None:
    _node(model, r).output[0] = r.choice(["", "other", "x", _node(model, r).output[0]])


@damage
def graph_end_gone(model: ModelProto, r: random.Random) -> None:
    graph = _graph(model, r)
    _pop(r.choice([graph.input, graph.output]), r)


@damage
def graph_end_more(model: ModelProto, r: random.Random) -> None:
    graph = _graph(model, r)
    entry = r.choice([graph.input, graph.output]).add()
    entry.name = r.choice(["", "extra", _node(model, r).output[0], _tensor(model, r).name])
    if r.random() < 0.7:
        entry.type.tensor_type.elem_type = r.choice([1, 7])
        entry.type.tensor_type.shape.dim.add().dim_value = 3


@damage
def value_type(model: ModelProto, r: random.Random) -> None:
    value = _value(model, r)
    if r.random() < 0.2:
        value.ClearField("type")
    elif r.random() < 0.2:
        value.type.sequence_type.elem_type.tensor_type.elem_type = 1
    else:
        value.type.tensor_type.elem_type = r.choice([0, 2, 6, 7, 8, 9, 10, 11, 16, 99])


@damage
def value_dim(model: ModelProto, r: random.Random) -> None:
    shape = _value(model, r).type.tensor_type.shape
    if r.random() < 0.3:
        r.choice([shape.dim.add, lambda: _pop(shape.dim, r)])()
    else:
        size = r.choice([0, -1, 1, 2, 5, 9, 1 << 31, 1 << 40, -(1 << 40)])
        shape.dim[r.randrange(len(shape.dim))].dim_value = size


@damage
def no_rank(model: ModelProto, r: random.Random) -> None:
    _value(model, r).type.tensor_type.ClearField("shape")


@damage
def attribute_gone(model: ModelProto, r: random.Random) -> None:
    _pop(_node(model, r).attribute, r)


@damage
def attribute_twice(model: ModelProto, r: random.Random) -> None:
    node = _node(model, r)
    node.attribute.add().CopyFrom(r.choice(list(node.attribute)))


@damage
def attribute_other(model: ModelProto, r: random.Random) -> None:
    attribute = r.choice(list(_node(model, r).attribute))
    way = r.randrange(5)
    if way == 0:
        attribute.type = r.randrange(15)
    elif way == 1:
        attribute.name = r.choice(["", "other"])
    elif way == 2:
        attribute.ints[:] = [r.choice([-9, -1, 0, 1, 2, 1 << 40]) for _ in attribute.ints]
        attribute.i = r.choice([-9, -1, 0, 1, 2, 1 << 40])
    elif way == 3:
        attribute.ints.append(r.choice([-1, 0, 3]))
    else:
        attribute.ref_attr_name = "outer"


@damage
def attribute_more(model: ModelProto, r: random.Random) -> None:
    made: list[tuple[str, object]] = [
        ("axis", 7), ("kernel_shape", [9, 9]), ("group", 3), ("pads", [1]), ("to", 99), ("other", "text"),
        ("alpha", float("nan")), ("perm", [0, 0]), ("auto_pad", "SOMEHOW"), ("training_mode", 1),
    ]  # fmt: skip
    _node(model, r).attribute.append(helper.make_attribute(*r.choice(made)))


@damage
def body_gone(model: ModelProto, r: random.Random) -> None:
    nodes = [n for n in model.graph.node if n.op_type == "If"]
    attribute = r.choice(list(r.choice(nodes).attribute))
    r.choice([lambda: attribute.ClearField("g"), attribute.g.Clear])()


@damage
def operator(model: ModelProto, r: random.Random) -> None:
    names = "NoSuchOperator Relu Conv MatMul Concat If Loop Shape LSTM ConstantOfShape Softmax BatchNormalization Split"
    _node(model, r).op_type = r.choice(["", *names.split()])


@damage
def domain(model: ModelProto, r: random.Random) -> None:
    _node(model, r).domain = r.choice(["com.microsoft", "ai.onnx", "ai.onnx.ml", "example"])


@damage
def operator_set(model: ModelProto, r: random.Random) -> None:
    if r.random() < 0.3:
        model.opset_import.append(helper.make_opsetid(r.choice(["", "ai.onnx", "example"]), r.choice([1, 9, 17])))
    else:
        model.opset_import[0].version = r.choice([0, -1, 1, 5, 7, 9, 12, 13, 19, 22, 99, 1 << 40])


@damage
def ir_version(model: ModelProto, r: random.Random) -> None:
    model.ir_version = r.choice([0, 1, 3, 4, 7, 99, -1])


@damage
def names(model: ModelProto, r: random.Random) -> None:
    node = _node(model, r)
    node.name = r.choice(["", "first", "\n", "a" * 5000, "../x", "{}"])
    _tensor(model, r).name = r.choice(["", "w", "x", "y"])


@damage
def renamed_everywhere(model: ModelProto, r: random.Random) -> None:
    """A name that is hard to print, where it is made and where it is read."""
    graph = _graph(model, r)
    old = r.choice([n for node in graph.node for n in node.output])
    new = r.choice(["with space", "tab\t", "new\nline", "ünïcode", "%s{}", "-o", "0", "a/b:c;d", "\u202e"])
    for scope in _graphs(model):
        for node in scope.node:
            node.input[:] = [new if n == old else n for n in node.input]
            node.output[:] = [new if n == old else n for n in node.output]
        for value in (*scope.input, *scope.output):
            value.name = new if value.name == old else value.name


@damage
def graph_gone(model: ModelProto, r: random.Random) -> None:
    model.ClearField("graph")


@damage
def sparse(model: ModelProto, r: random.Random) -> None:
    graph = _graph(model, r)
    tensor = r.choice(list(graph.initializer))
    values = numpy_helper.from_array(np.ones(2, np.float32), tensor.name)
    index = numpy_helper.from_array(np.asarray(r.choice([[0, 1], [0, 1 << 40], [-1, 0], [[0, 0], [0, 1]]])), "index")
    graph.sparse_initializer.append(helper.make_sparse_tensor(values, index, list(tensor.dims)))
    if r.random() < 0.7:
        graph.initializer.remove(tensor)


@damage
def constant_forms(model: ModelProto, r: random.Random) -> None:
    kind = r.choice(["value_ints", "value_string", "value_strings", "value_floats", "value_int"])
    value = {"value_ints": [1, 2], "value_string": "t", "value_strings": ["a", "b"], "value_floats": [], "value_int": 3}
    node = helper.make_node("Constant", [], ["more"])
    made = AttributeProto(name=kind)
    made.type = {"value_floats": AttributeProto.FLOATS}.get(kind, AttributeProto.INTS)
    node.attribute.append(helper.make_attribute(kind, value[kind]) if value[kind] else made)
    if r.random() < 0.4:
        node.attribute.append(helper.make_attribute("value_float", 1.0))
    model.graph.node.insert(0, node)
    if r.random() < 0.5:
        reader = _node(model, r)
        reader.input[r.randrange(len(reader.input))] = "more"
