"""Small models with waste to take out, weights to mask and products to factor."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto
from sketch import Sketch
from small_models import out, subject

CUT = "fold,prune-channels{channels=0.6x,score=l2,align=1},"


@subject(pipeline="eliminate,prune-channels{channels=0.6x,score=l2,align=1},verify")
def wasteful(s: Sketch) -> None:
    """Orders of axes that are put together, casts that lose digits, and nodes that are nearly alike."""
    x = s.op("Transpose", s.op("Transpose", s.input(["N", 5, 4]), perm=[1, 2, 0]), perm=[1, 0, 2])  # [4, 5, N]
    x = s.op("Transpose", x, perm=[2, 1, 0])  # [N, 5, 4] again
    x = s.op("Cast", s.op("Cast", s.op("Cast", x, to=TensorProto.FLOAT16), to=TensorProto.FLOAT), to=TensorProto.FLOAT)
    x = s.linear(x, 4, 20)
    near, far = (np.ones(20, np.float32) for _ in "ab")
    far[10] = 7  # the ends of both are alike
    pair = [s.op("Mul", x, s.const(v)) for v in (near, far)]
    soft = [s.op("LeakyRelu", p, alpha=a) for p in pair for a in (0.1, 0.7)]
    y = s.op("Sub", s.op("Add", soft[0], soft[3]), s.op("Mul", soft[1], soft[2]))
    y = s.op("Transpose", s.op("Softmax", s.op("Transpose", y, perm=[0, 2, 1]), axis=2), perm=[0, 2, 1])
    out(s, s.op("Reshape", s.op("Reshape", y, s.const([-1, 20])), s.const([-1, 5, 20])), 20, 3)


@subject(pipeline=f"{CUT}prune-weights{{pattern=2:4}},verify")
def patterned(s: Sketch) -> None:
    """Convolutions and a product whose inputs come in fours after a cut."""
    x = s.op("Relu", s.conv(s.input(["N", 3, 5, 5]), 20, 3, kernel=3, bias=True))
    x = s.op("Relu", s.conv(x, 20, 20, kernel=3, bias=True))
    out(s, x, 20)


@subject(pipeline=f"{CUT}prune-weights{{sparsity=0.9,spread=uniform}},verify")
def thin(s: Sketch) -> None:
    """Weights of which so few are left that they are written as sparse tensors."""
    x = s.op("Relu", s.conv(s.input(["N", 3, 5, 5]), 20, 3, kernel=3, bias=True))
    out(s, s.op("Relu", s.conv(x, 20, 20, kernel=3, bias=True)), 20)


@subject(pipeline=f"{CUT}factorize{{size=0.5x}},verify")
def low(s: Sketch) -> None:
    """Large products, one with a window, and a turned one."""
    x = s.op("Relu", s.conv(s.input(["N", 3, 6, 6]), 80, 3, kernel=3, bias=True))
    x = s.op("Relu", s.op("Conv", x, s.weight(80, 80, 3, 3), s.weight(80, fan=9), pads=[0, 1, 2, 1], strides=[1, 2]))
    x = s.op("Flatten", s.op("GlobalAveragePool", x))
    x = s.op("Relu", s.op("Gemm", x, s.weight(120, 80), s.weight(120, fan=9), transB=1))
    out(s, s.op("Relu", s.op("MatMul", x, s.weight(120, 80))), 80, 2)
