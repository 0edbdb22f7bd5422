"""What is said of an operator besides how its axes couple: each rule says it, and every room that asks reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

#: The class words of a target's fusion chains. An activation is elementwise too.
Word = Literal["", "activation", "elementwise", "normalization"]

#: Extents of a tensor.
Shape = tuple[int, ...]

#: An input that picks rows: its position, the extents of the table (None where they are not known), and how many rows
#: a table of such extents has.
Pick = tuple[int, Shape | None, Callable[[Shape], int]]


@dataclass(frozen=True, slots=True)
class Form:
    """How the weights of an operator act: what scores, redundancy, fuse-bn and compensation have to know of them.

    The data is input 0 and the weight input 1.

    - `matrix`: y = x W + b over the last axis.
    - `conv`: a convolution, the weight [outputs, inputs, window].
    - `transposed`: a transposed convolution, the weight [inputs, outputs, window].
    - `recurrent`: gates of x W^T and of a state.
    - `channels`: one slope and one offset for each channel of axis 1: a batch normalisation's inputs 1 to 4.
    """

    kind: Literal["matrix", "conv", "transposed", "recurrent", "channels"]
    bias: bool = True  # whether input 2 is a bias for each output, or may be one

    @property
    def table(self) -> bool:
        """Whether the weight is a table of outputs and inputs, over the taps of a window."""
        return self.kind in ("matrix", "conv", "transposed")

    @property
    def channel_axis(self) -> int:
        """The axis of the output that holds the channels."""
        return -1 if self.kind in ("matrix", "recurrent") else 1


@dataclass(frozen=True, slots=True)
class Traits:
    """What is certain of every use of an operator. The default promises nothing; what a use decides, a method says."""

    #: The class word that targets' fusion chains know it by. What is elementwise may also take a branch's constant.
    fuses: Word = ""
    #: The outputs' sign: certain by itself, that of input 0 (`same`), or what all inputs have (`all`).
    sign: Literal["", "positive", "nonnegative", "same", "all"] = ""
    #: No entry becomes zero that was none (`Sign.solid`).
    keeps_solid: bool = False
    #: f(x), entry by entry or channel by channel with constants: on one number per channel it gives one.
    pointwise: bool = False
    #: Every channel of its inputs is handed on by itself, or reduced away.
    hands_on: bool = False
    #: An input without entries may be left out, as long as one with some is there.
    drops_parts: bool = False
    #: Zero times anything is zero.
    multiplies: bool = False
    #: It moves the numbers of input 0 about, and computes nothing.
    moves: bool = False
    #: Inputs in which it is linear: f(M x) = M f(x) for a matrix M on the channels; None for all of them.
    linear: tuple[int, ...] | None = ()
    #: It reads the extents of its input alone.
    blind: bool = False
    #: How its weights act, where it has some.
    form: Form | None = None
    #: The bounds that it cuts its input off at, where these are always the same.
    clips: tuple[float, float] | None = None
    #: It takes long on large constants.
    heavy: bool = False
    #: Of constants it may be computed once and for all: no random numbers, and no weight that is stored in few bits.
    foldable: bool = True
    #: Inputs that pick rows: (the input with the indices, the one with the table, the attribute of the axis and its
    #: default).
    indices: tuple[tuple[int, int, str, int], ...] = ()
    #: Inputs that are masks.
    masks: tuple[int, ...] = ()
    #: Inputs that are lengths of rows.
    lengths: tuple[int, ...] = ()
    #: Inputs that are extents.
    extents: tuple[int, ...] = ()
    #: Inputs of floating-point numbers that settle extents: rounding may not move them.
    settles: tuple[int, ...] = ()
    #: Inputs whose numbers the output holds, if from other places; None for all of them.
    carries: tuple[int, ...] | None = ()
    #: The output is true or false of what its inputs hold.
    truth: bool = False
    #: It compares its inputs with each other.
    compares: bool = False

    def words(self) -> frozenset[str]:
        """The class words of fusion chains that mean it."""
        return frozenset({"activation", "elementwise"} if self.fuses == "activation" else {self.fuses} - {""})

    @property
    def elementwise(self) -> bool:
        """Whether chains call it elementwise."""
        return "elementwise" in self.words()
