"""Operators that no channel can pass, each with what it mixes."""

from __future__ import annotations

from typing import ClassVar

from hwpass.ops.functions import elementwise, indexing, layout, losses, products, resize, spectra, windows
from hwpass.ops.functions.common import Function
from hwpass.ops.rule import Freeze, Node, Relate, Rule, Tensor, Traits, register

_RANDOM = "random numbers are drawn for the whole tensor"
_WINDOW = "the samples of a window, whose shape is its length's"
_LOSS = "a loss averages over every class and sample"
_TEXT = "text has no channels"
_DATA = "which entries are picked depends on the data"
_STATE = "its state keeps its width"


@register
class Frozen(Rule):
    """Mixes what it reads, or picks by what it reads: everything around it keeps its width."""

    reasons: ClassVar[dict[str, str]] = {
        "AffineGrid": "coordinates of a grid",
        "Bernoulli": _RANDOM,
        "BitCast": "one number is seen as several",
        "BlackmanWindow": _WINDOW,
        "CausalConvWithState": _STATE,
        "CenterCropPad": "positions are cropped or padded about the centre",
        "Col2Im": "channels and positions of a window share an axis",
        "Compress": _DATA,
        "DFT": "a Fourier transform mixes its axis",
        "Det": "a determinant mixes rows and columns",
        "EyeLike": "a matrix of ones on a diagonal",
        "GatherElements": "entries are picked one by one",
        "HammingWindow": _WINDOW,
        "HannWindow": _WINDOW,
        "ImageDecoder": "pixels of a picture file",
        "LinearAttention": _STATE,
        "MaxRoiPool": "regions pick positions of the image",
        "MaxUnpool": "flat indices count channels and positions together",
        "MelWeightMatrix": "the weights of a filter bank",
        "Multinomial": _RANDOM,
        "NegativeLogLikelihoodLoss": _LOSS,
        "NonMaxSuppression": "boxes compete with each other",
        "NonZero": _DATA,
        "RandomNormal": _RANDOM,
        "RandomNormalLike": _RANDOM,
        "RandomUniform": _RANDOM,
        "RandomUniformLike": _RANDOM,
        "RegexFullMatch": _TEXT,
        "STFT": "a Fourier transform mixes its frame",
        "Scatter": "entries are written one by one",
        "ScatterElements": "entries are written one by one",
        "SoftmaxCrossEntropyLoss": _LOSS,
        "StringConcat": _TEXT,
        "StringNormalizer": _TEXT,
        "StringSplit": _TEXT,
        "TfIdfVectorizer": "terms are counted over the whole sequence",
        "Unique": "entries are compared with each other",
    }
    ops = tuple(sorted(reasons))
    each: ClassVar[dict[str, Traits]] = {
        **{op: Traits(foldable=False) for op, reason in reasons.items() if reason == _RANDOM},
        **dict.fromkeys(("DFT", "Det", "NonMaxSuppression", "STFT", "Unique"), Traits(heavy=True)),
        **dict.fromkeys(("Scatter", "ScatterElements"), Traits(indices=((1, 0, "axis", 0),))),
        "Compress": Traits(masks=(1,), carries=(0,)),
        "GatherElements": Traits(indices=((1, 0, "axis", 0),), carries=(0,)),
    }
    functions: ClassVar[dict[str, Function]] = {
        "AffineGrid": resize.affine_grid,
        "BitCast": elementwise.bit_cast,
        "CenterCropPad": layout.center_crop_pad,
        "Col2Im": windows.col2im,
        "Compress": indexing.compress,
        "DFT": spectra.dft,
        "Det": products.determinant,
        "EyeLike": layout.eye_like,
        "GatherElements": indexing.gather_elements,
        "MaxUnpool": windows.max_unpool,
        "NegativeLogLikelihoodLoss": losses.negative_log_likelihood,
        "NonMaxSuppression": indexing.non_max_suppression,
        "NonZero": indexing.nonzero,
        "STFT": spectra.stft,
        "Scatter": indexing.scatter_elements,
        "ScatterElements": indexing.scatter_elements,
        "SoftmaxCrossEntropyLoss": losses.softmax_cross_entropy,
    }

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        raise Freeze(self.reasons[node.op])


@register
class ContribFrozen(Frozen):
    """Picks rows of a table by what it reads: everything around it keeps its width."""

    reasons: ClassVar[dict[str, str]] = {
        "GatherBlockQuantized": "rows of a table in few bits are picked",
        "QEmbedLayerNormalization": "rows of tables in few bits are picked, summed and normalised",
    }
    ops = tuple(sorted(reasons))
    domain = "com.microsoft"
    each: ClassVar[dict[str, Traits]] = {
        "GatherBlockQuantized": Traits(indices=((1, 0, "gather_axis", 0),)),
        "QEmbedLayerNormalization": Traits(indices=((0, 2, "", 0), (1, 4, "", 0))),
    }
    functions: ClassVar[dict[str, Function]] = {}


@register
class ClassicFrozen(Frozen):
    """Picks features of a table by what it reads: everything around it keeps its width."""

    reasons: ClassVar[dict[str, str]] = {"ArrayFeatureExtractor": "features are picked one by one"}
    ops = tuple(sorted(reasons))
    domain = "ai.onnx.ml"
    traits = Traits(indices=((1, 0, "", -1),))
    functions: ClassVar[dict[str, Function]] = {"ArrayFeatureExtractor": indexing.array_features}
