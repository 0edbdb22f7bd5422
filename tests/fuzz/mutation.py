"""Mutations: of protobufs by their descriptors, of JSON by its structure, of text and bytes by place."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

INTEGERS = (0, 1, -1, 2, 3, 7, 13, 16, 255, 2**31 - 1, -(2**31), 2**40, 2**63 - 1, -(2**63))
REALS = (0.0, -0.0, 1.0, -1.0, 1e-30, 1e30, 3.4e38, float("inf"), float("-inf"), float("nan"))
TEXTS = ("", " ", "x", "..", "../x", "/dev/null", "a\nb", "é", "\U0001f600", "%s{}", "ai.onnx", "com.microsoft",
         "Conv", "Loop", "x" * 3000, "\x1b[31m", "N", "-1")  # fmt: skip
JSON: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 10**12, -(10**12), 10**400, 0.5, 1e308, "", "0-3", "3-0", "0-999999999", "fold",
    "verify{metric=a:b}", "\x1b[31m\n", "x" * 3000, [], [0], [0, 0], {}, {"a": 1},
)  # fmt: skip
WORDS = ("", "nan", "inf", "-1", "0", "1e999", "true", "[", "]", "{", "}", "[[", '"', "'''", "=", "\n", ",", "a.b.c",
         "\0", "\ufeff", "é", "[" * 2000, "a." * 2000, "9" * 5000, "1979-05-27", "#", "\\", "\r")  # fmt: skip


def mutated_model(r: random.Random, proto: onnx.ModelProto) -> bytes:
    """The bytes of a model in which a few fields changed, or a few bytes."""
    if r.random() < 0.15:
        return mutated_bytes(r, proto.SerializeToString())
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    for _ in range(r.choice((0, 1, 1, 1, 2, 3, 6))):
        names = [t.name for t in changed.graph.initializer] + [o for n in changed.graph.node for o in n.output]
        messages = list(_messages(changed))
        # Nodes and tensors are where the meaning is; among many raw values they would rarely be met.
        nodes = [m for m in messages if m.DESCRIPTOR.name in ("NodeProto", "AttributeProto", "TensorProto")]
        _change(r, r.choice(nodes if nodes and r.random() < 0.6 else messages), names)
    data: bytes = changed.SerializeToString()
    return data if r.random() < 0.95 else data[: r.randrange(len(data) + 1)]


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in value if field.is_repeated else (value,):
                yield from _messages(inner)


def _change(r: random.Random, message: Message, names: list[str]) -> None:
    given = [field for field, _ in message.ListFields()]
    field = r.choice(given if given and r.random() < 0.8 else list(message.DESCRIPTOR.fields))
    if r.random() < 0.12:
        message.ClearField(field.name)
    elif field.is_repeated:
        _change_list(r, field, getattr(message, field.name), names)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        getattr(message, field.name).SetInParent()
    else:
        _assign(r, message, field, names)


def _change_list(r: random.Random, field: Any, values: Any, names: list[str]) -> None:
    what = r.randrange(5)
    place = r.randrange(len(values)) if len(values) else 0
    if what == 0 and len(values):
        del values[place]
    elif what == 1 and len(values):
        copies = list(values)
        copies.insert(r.randrange(len(copies) + 1), copies[place])
        _refill(field, values, copies)
    elif what == 2 and len(values) > 1:
        copies = list(values)
        r.shuffle(copies)
        _refill(field, values, copies)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        values.add()
    elif what == 3 and len(values):
        values[place] = _value(r, field, names)
    else:
        values.append(_value(r, field, names))


def _refill(field: Any, values: Any, copies: list[Any]) -> None:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        copies = [type(c).FromString(c.SerializeToString()) for c in copies]
    del values[:]
    values.extend(copies)


def _assign(r: random.Random, message: Message, field: Any, names: list[str]) -> None:
    value = getattr(message, field.name)
    if isinstance(value, bytes) and value and r.random() < 0.7:
        setattr(message, field.name, mutated_bytes(r, value))
    elif isinstance(value, int) and field.type != FieldDescriptor.TYPE_ENUM and r.random() < 0.3:
        setattr(message, field.name, max(-(2**31), min(2**31 - 1, value + r.choice((-1, 1)))))
    else:
        setattr(message, field.name, _value(r, field, names))


def _value(r: random.Random, field: Any, names: list[str]) -> Any:
    kind = field.cpp_type
    if kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64):
        return r.choice((0, 1, 2, 3, 7, 8, 10, 16, 22, 99, 2**31 - 1))
    if kind == FieldDescriptor.CPPTYPE_INT64:
        return r.choice(INTEGERS)
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return r.choice(REALS)
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return r.choice(list(field.enum_type.values_by_number))
    if field.type == FieldDescriptor.TYPE_BYTES:
        return r.choice((b"", b"\0", r.choice(names or [""]).encode(), bytes(range(64))))
    return r.choice(names) if names and r.random() < 0.6 else r.choice(TEXTS)


def mutated_bytes(r: random.Random, data: bytes) -> bytes:
    """The data cut short, with bytes changed, left out, put in or repeated."""
    for _ in range(r.choice((1, 1, 2, 5))):
        place, length = r.randrange(len(data) + 1), r.choice((1, 1, 2, 8, 64))
        piece = bytes(r.randrange(256) for _ in range(length))
        what = r.randrange(5)
        if what == 0:
            data = data[:place]
        elif what == 1:
            data = data[:place] + piece + data[place + length :]
        elif what == 2:
            data = data[:place] + piece + data[place:]
        elif what == 3:
            data = data[:place] + data[place + length :]
        else:
            data = data[:place] + data[place : place + length] * r.choice((2, 100)) + data[place:]
    return data


def mutated_text(r: random.Random, text: str) -> str:
    """The text with a value, a word, a line or a piece changed."""
    for _ in range(r.choice((0, 1, 1, 1, 2, 4))):
        lines = text.split("\n")
        place = r.randrange(len(lines))
        what = r.randrange(6)
        if what == 0:
            del lines[place]
        elif what == 1:
            lines.insert(r.randrange(len(lines) + 1), lines[place])
        elif what == 2 and "=" in lines[place]:
            lines[place] = lines[place].split("=")[0] + "= " + r.choice(WORDS)
        elif what == 3:
            cut = r.randrange(len(lines[place]) + 1)
            lines[place] = lines[place][:cut] + r.choice(WORDS) + lines[place][cut:]
        elif what == 4:
            lines[place] = lines[place][: r.randrange(len(lines[place]) + 1)]
        else:
            r.shuffle(lines)
        text = "\n".join(lines)
    return text


def mutated_json(r: random.Random, value: Any) -> Any:
    """The value with one of its parts replaced, left out or repeated."""
    if isinstance(value, dict) and value and r.random() < 0.85:
        key = r.choice(list(value))
        changed = dict(value)
        what = r.randrange(12)
        if what == 0:
            del changed[key]
        elif what == 1:
            changed[r.choice(("more", "", "schema", key + "s"))] = r.choice(JSON)
        else:
            changed[key] = mutated_json(r, value[key])
        return changed
    if isinstance(value, list) and value and r.random() < 0.85:
        items = list(value)
        place, what = r.randrange(len(items)), r.randrange(8)
        if what == 0:
            del items[place]
        elif what == 1:
            items.insert(place, items[place])
        else:
            items[place] = mutated_json(r, items[place])
        return items
    return r.choice(JSON)
