"""What a step of a random program may add to a graph: layers, joins and everything between them."""

from __future__ import annotations

import random

from graphs import Dim, Maker, Value, action
from sketch import Sketch


def same(value: Value) -> tuple[Dim, ...]:
    return value.dims


def replaced(value: Value, axis: int, size: int) -> tuple[Dim, ...]:
    dims = list(value.dims)
    dims[axis] = Dim(size)
    return tuple(dims)


def images(m: Maker, x: Value) -> bool:
    """Whether x is [batch, channels, positions...] with static channels."""
    return x.rank in (3, 4) and m.fixed(x, 1)


def divisors(number: int) -> list[int]:
    return [d for d in range(2, number + 1) if number % d == 0]


@action
def conv(m: Maker, x: Value, r: random.Random) -> Value | None:
    """Plain, grouped, depthwise, dilated; the extent of the image stays."""
    if not images(m, x):
        return None
    spatial, inputs = x.rank - 2, x.size(1)
    group = r.choice([1, 1, 1, inputs, r.choice(divisors(inputs))])
    width = r.choice([4, 6, 8, 9]) if group == 1 else group * r.choice([1, 1, 2, 3])
    if width > 16:
        group, width = 1, 8
    kernel = r.choice([1, 3])
    dilation = r.choice([1, 2]) if kernel == 3 else 1
    bias = [m.weight(r, width, fan=4)] if r.random() < 0.5 else []
    weight = m.weight(r, width, inputs // group, *[kernel] * spatial, fan=inputs // group * kernel**spatial)
    pads = [dilation * (kernel // 2)] * (2 * spatial)
    return m.add("Conv", replaced(x, 1, width), x.name, weight, *bias,
                 group=group, pads=pads, dilations=[dilation] * spatial)  # fmt: skip


@action
def strided(m: Maker, x: Value, r: random.Random) -> Value | None:
    """A convolution that halves the image."""
    if not images(m, x) or not m.fixed(x, *range(2, x.rank)) or any(x.size(a) % 2 for a in range(2, x.rank)):
        return None
    spatial, inputs = x.rank - 2, x.size(1)
    width = r.choice([4, 6, 8, 12])
    weight = m.weight(r, width, inputs, *[2] * spatial, fan=inputs * 2**spatial)
    halved = [Dim(x.size(a) // 2) for a in range(2, x.rank)]
    return m.add("Conv", (x.dims[0], Dim(width), *halved), x.name, weight, strides=[2] * spatial)


@action
def conv_transpose(m: Maker, x: Value, r: random.Random) -> Value | None:
    if not images(m, x) or not m.fixed(x, *range(2, x.rank)) or max(x.size(a) for a in range(2, x.rank)) > 4:
        return None
    spatial, inputs = x.rank - 2, x.size(1)
    group = r.choice([1, 1, inputs, r.choice(divisors(inputs))])
    each = r.choice([1, 2, 4])
    if group * each > 16:
        group = 1
    bias = [m.weight(r, group * each, fan=4)] if r.random() < 0.5 else []
    weight = m.weight(r, inputs, each, *[2] * spatial, fan=inputs)
    doubled = [Dim(x.size(a) * 2) for a in range(2, x.rank)]
    return m.add("ConvTranspose", (x.dims[0], Dim(group * each), *doubled), x.name, weight, *bias,
                 group=group, strides=[2] * spatial)  # fmt: skip


@action
def gemm(m: Maker, x: Value, r: random.Random) -> Value | None:
    if x.rank != 2 or not m.fixed(x, 1):
        return None
    inputs, width = x.size(1), r.choice([4, 6, 8, 12])
    trans_b, trans_a = r.randrange(2), int(r.random() < 0.2)
    weight = m.weight(r, *((width, inputs) if trans_b else (inputs, width)), fan=inputs)
    data = x.name
    if trans_a:
        m.used.add(x.name)
        data = m.sketch.op("Transpose", x.name, perm=[1, 0])
    bias = r.choice([None, (width,), (1, width), (1,), (1, 1), ()])
    operands = [] if bias is None else [m.vector(r, bias)]
    scale = {"alpha": 0.5, "beta": 2.0} if r.random() < 0.2 else {}
    return m.add("Gemm", (x.dims[0], Dim(width)), data, weight, *operands, transA=trans_a, transB=trans_b, **scale)


@action
def linear(m: Maker, x: Value, r: random.Random) -> Value | None:
    """A MatMul with its weight on the right (one, or one per head) or on the left."""
    width, form = r.choice([4, 6, 8, 12]), r.random()
    if form < 0.2 and x.rank >= 3 and m.fixed(x, -2):
        weight = m.weight(r, width, x.size(-2), fan=x.size(-2))
        return m.add("MatMul", replaced(x, -2, width), weight, x.name)
    if x.rank < 2 or not m.fixed(x, -1):
        return None
    stack = (x.size(-3),) if form < 0.4 and x.rank >= 3 and x.size(-3) > 1 else ()
    weight = m.weight(r, *stack, x.size(-1), width, fan=x.size(-1))
    y = m.add("MatMul", replaced(x, -1, width), x.name, weight)
    return m.add("Add", y.dims, y.name, m.vector(r, (width,))) if r.random() < 0.5 else y


@action
def linear_again(m: Maker, x: Value, r: random.Random) -> Value | None:
    return linear(m, x, r) or conv(m, x, r)


@action
def conv_again(m: Maker, x: Value, r: random.Random) -> Value | None:
    return conv(m, x, r) or linear(m, x, r)


@action
def einsum(m: Maker, x: Value, r: random.Random) -> Value | None:
    if m.opset < 12 or x.rank not in (3, 4) or x.elements > 2000:
        return None
    letters = "bcxy"[: x.rank]
    form = r.randrange(3)
    if form == 0 and m.fixed(x, -1):
        weight = m.weight(r, 6, x.size(-1), fan=x.size(-1))
        return m.add(
            "Einsum", replaced(x, -1, 6), x.name, weight, equation=f"{letters},o{letters[-1]}->{letters[:-1]}o"
        )
    if form == 1 and m.fixed(x, 1):
        weight = m.weight(r, 6, x.size(1), fan=x.size(1))
        return m.add("Einsum", replaced(x, 1, 6), x.name, weight, equation=f"{letters},oc->bo{letters[2:]}")
    other = m.like(x, r) or x
    rest = letters[:-2]
    equation = f"{rest}tu,{rest}su->{rest}ts"
    y = m.add("Einsum", (*x.dims[:-2], x.dims[-2], x.dims[-2]), x.name, other.name, equation=equation)
    m.used.add(other.name)
    return m.add("Mul", y.dims, y.name, m.sketch.const(0.3))


@action
def batch_norm(m: Maker, x: Value, r: random.Random) -> Value | None:
    if x.rank < 2 or not m.fixed(x, 1):
        return None
    width = x.size(1)
    parameters = [m.vector(r, (width,)), m.weight(r, width, fan=4), m.weight(r, width, fan=4), m.sketch.positive(width)]
    return m.add("BatchNormalization", same(x), x.name, *parameters)


@action
def instance_norm(m: Maker, x: Value, r: random.Random) -> Value | None:
    if not images(m, x) or not m.fixed(x, *range(2, x.rank)):
        return None
    return m.add("InstanceNormalization", same(x), x.name, m.vector(r, (x.size(1),)), m.vector(r, (x.size(1),)),
                 epsilon=1e-2)  # fmt: skip


@action
def group_norm(m: Maker, x: Value, r: random.Random) -> Value | None:
    """The operator, or what exporters write for it: reshape, instance norm, reshape, scale, shift."""
    if not images(m, x) or not m.fixed(x, *range(2, x.rank)):
        return None
    width = x.size(1)
    groups = r.choice(divisors(width))
    if m.opset >= 18 and r.random() < 0.6:
        length = width if m.opset >= 21 else groups
        return m.add("GroupNormalization", same(x), x.name, m.vector(r, (length,)), m.vector(r, (length,)),
                     num_groups=groups, epsilon=1e-2)  # fmt: skip
    s: Sketch = m.sketch
    inner = s.op("Reshape", x.name, s.const([0, groups, -1]))
    ones, zeros = s.const([1.0] * groups), s.const([0.0] * groups)
    normal = s.op("InstanceNormalization", inner, ones, zeros, epsilon=1e-2)
    known = x.dims[0].fixed and r.random() < 0.5
    whole = s.op("Reshape", normal, s.const([d.size for d in x.dims]) if known else s.op("Shape", x.name))
    m.used.add(x.name)
    per_channel = (width, *[1] * (x.rank - 2))
    y = m.add("Mul", same(x), whole, m.vector(r, per_channel))
    return m.add("Add", same(x), y.name, m.vector(r, per_channel))


@action
def layer_norm(m: Maker, x: Value, r: random.Random) -> Value | None:
    if x.rank < 2 or not m.fixed(x, -1):
        return None
    s, width = m.sketch, x.size(-1)
    if m.opset >= 17 and r.random() < 0.5:
        bias = [m.vector(r, (width,))] if r.random() < 0.7 else []
        return m.add("LayerNormalization", same(x), x.name, m.vector(r, (width,)), *bias, axis=-1, epsilon=1e-2)
    mean = s.axes_op("ReduceMean", x.name, [-1], since=18)
    centred = s.op("Sub", x.name, mean)
    variance = s.axes_op("ReduceMean", s.op("Pow", centred, s.const(2.0)), [-1], since=18)
    deviation = s.op("Sqrt", s.op("Add", variance, s.const(1e-2)))
    m.used.add(x.name)
    y = m.add("Div", same(x), centred, deviation)
    return m.add("Mul", same(x), y.name, m.vector(r, (width,)))


@action
def attention(m: Maker, x: Value, r: random.Random) -> Value | None:
    """Self-attention of a sequence, packed or not, heads split and merged by Reshape and Transpose."""
    if x.rank != 3 or not m.fixed(x, -1) or x.elements > 600:
        return None
    s, heads, width = m.sketch, r.choice([2, 4, 6]), r.choice([2, 4])
    batch, length = x.dims[0], x.dims[1]
    packed = r.random()
    split = (batch, length, Dim(heads), Dim(width))
    m.used.add(x.name)
    if packed < 0.4:
        qkv = linear_of(m, r, x, 3 * heads * width)
        parts = m.reshape(qkv, (batch, length, Dim(3), Dim(heads), Dim(width)), r)
        if parts is None:
            return None
        m.used.add(parts.name)
        moved = s.op("Transpose", parts.name, perm=[2, 0, 3, 1, 4])
        if r.random() < 0.5:
            q, k, v = (s.op("Gather", moved, s.const(i), axis=0) for i in range(3))
        else:
            q, k, v = (s.axes_op("Squeeze", p, [0]) for p in _thirds(m, moved, 0, r))
    else:
        if packed < 0.6:
            qkv = linear_of(m, r, x, 3 * heads * width)
            m.used.add(qkv.name)
            dims = (batch, length, Dim(heads * width))
            flat = [Value(name, dims) for name in _thirds(m, qkv.name, 2, r)]
        else:
            flat = [linear_of(m, r, x, heads * width) for _ in range(3)]
        split_up = [m.reshape(f, split, r) for f in flat]
        if any(p is None for p in split_up):
            return None
        q, k, v = (s.op("Transpose", p.name, perm=[0, 2, 1, 3]) for p in split_up if p is not None)
        m.used.update(p.name for p in (*split_up, *flat) if p is not None)
    scores = s.op("MatMul", q, s.op("Transpose", k, perm=[0, 1, 3, 2]))
    scaled = s.op("Mul", scores, s.const(0.5)) if r.random() < 0.5 else s.op("Div", scores, s.const(1.4))
    weights = s.op("Softmax", scaled, axis=3 if m.opset < 13 else -1)
    mixed = s.op("Transpose", s.op("MatMul", weights, v), perm=[0, 2, 1, 3])
    y = m.push(mixed, split)
    y2 = m.reshape(y, (batch, length, Dim(heads * width)), r)
    return None if y2 is None else linear_of(m, r, y2, r.choice([6, 8, x.size(-1)]))


def linear_of(m: Maker, r: random.Random, x: Value, width: int) -> Value:
    y = m.add("MatMul", replaced(x, -1, width), x.name, m.weight(r, x.size(-1), width, fan=x.size(-1)))
    return m.add("Add", y.dims, y.name, m.vector(r, (width,))) if r.random() < 0.5 else y


def _thirds(m: Maker, name: str, axis: int, r: random.Random) -> list[str]:
    if m.opset >= 18:
        return m.sketch.ops("Split", name, count=3, axis=axis, num_outputs=3)
    return m.sketch.ops("Split", name, count=3, axis=axis)
