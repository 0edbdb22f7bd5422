"""Classes of operators: what the class words of a target's fusion chains stand for."""

from __future__ import annotations

ACTIVATIONS = frozenset(
    "Relu LeakyRelu PRelu Elu Selu Celu Clip Sigmoid HardSigmoid HardSwish Tanh Gelu Mish Swish Softplus Erf".split()
)
ELEMENTWISE = ACTIVATIONS | frozenset("Add Sub Mul Div Max Min Pow Sqrt Exp Neg Abs".split())
NORMALIZATIONS = frozenset("BatchNormalization InstanceNormalization LayerNormalization GroupNormalization".split())
CLASSES = {"activation": ACTIVATIONS, "elementwise": ELEMENTWISE, "normalization": NORMALIZATIONS}
