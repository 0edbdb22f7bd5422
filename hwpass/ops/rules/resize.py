"""Images of another size: each channel by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from hwpass.ops.axes import axis_size
from hwpass.ops.functions import resize as functions
from hwpass.ops.functions.common import Function
from hwpass.ops.rule import Freeze, Node, Relate, Rule, Shrink, Tensor, Traits, register


@register
class Resize(Rule):
    """Resamples the image; channels pass through, and an explicit output size is rewritten."""

    ops = ("Resize", "Upsample")
    kind = "movement"
    parameters = (1, 2, 3)
    traits = Traits(hands_on=True, heavy=True)
    each: ClassVar[dict[str, Traits]] = {
        "Resize": replace(traits, extents=(3,), settles=(1, 2)),
        "Upsample": replace(traits, settles=(1,)),
    }
    functions: ClassVar[dict[str, Function]] = dict.fromkeys(ops, functions.resize)

    def couple(self, node: Node, build: Relate) -> list[Tensor]:
        x = node.axes(0)
        for position in (2, 3):
            if node.has(position) and any(node.axes(position)) and node.value(position) is None:
                raise Freeze("the size of the image is computed from the data")
        if node.has(3) and str(node.attr("keep_aspect_ratio_policy", "stretch")) != "stretch":
            raise Freeze("the aspect ratio decides the size of the image")
        inferred = build.inferred(node)[0].axes
        if inferred is None:
            raise Freeze("the extent of the output is unknown")
        axes = []
        for old, new in zip(x, inferred, strict=True):
            if axis_size(old) == axis_size(new):
                axes.append(old)
            else:
                build.freeze([old], "positions of the image")
                axes.append(new)
        result = Tensor(tuple(axes), node.tensor(0).dtype)
        node.memo["result"] = result
        return [result]

    def shrink(self, node: Node, shrink: Shrink) -> None:
        result = node.memo["result"]
        if node.has(3) and (any(shrink.touched(axis) for axis in result.axes) or not node.tensor(3).constant):
            places = node.attr("axes") or range(len(result.axes))
            shape = shrink.shape(result)
            shrink.set_operand(node, 3, [shape[p] for p in places])
