"""A model's graph in steps: what each reads and writes, what is trained, and what has no function."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs
from onnx import defs

from hwpass.model.model import Model
from hwpass.ops.rule import NoFunction, Rule, rule_for

#: Operators with bodies that are computed.
CONTROL = frozenset({"If", "Loop", "Scan"})

#: Entries of a mask that hide what they are added to are at most this.
HIDING = -100.0

#: What a node reads: a tensor by its name, a constant by its number, or nothing.
Operand = str | int | None


@dataclass
class Step:
    """One node, what it reads and writes, and what nobody reads after it."""

    node: gs.Node
    rule: Rule
    reads: list[Operand]
    writes: list[str]
    blocks: dict[str, Block] = field(default_factory=dict)
    frees: list[str] = field(default_factory=list)
    constant: bool = False  # it depends on no input and no parameter
    trained: bool = False  # it depends on a parameter

    def names(self) -> Iterator[Operand]:
        """Everything that it and its bodies read from around it."""
        yield from self.reads
        for block in self.blocks.values():
            yield from block.outer()


@dataclass
class Block:
    """A graph or a body as steps in order."""

    inputs: list[str]
    outputs: list[Operand]
    steps: list[Step]

    def outer(self) -> Iterator[Operand]:
        """What is read here and made outside."""
        made = {*self.inputs, *(name for step in self.steps for name in step.writes)}
        yield from (name for step in self.steps for name in step.names() if name not in made)
        yield from (name for name in self.outputs if name not in made)


class Plan:
    """A model's graph as steps; constants of all scopes have numbers."""

    def __init__(self, model: Model) -> None:
        self.constants: list[gs.Constant] = []
        self.uses: list[list[tuple[gs.Node, int]]] = []
        self.main: set[int] = set()  # constants that nodes of the main graph read
        self._numbers: dict[int, int] = {}
        self.block = self._block(model.graph, True)

    def _number(self, tensor: gs.Constant) -> int:
        if id(tensor) not in self._numbers:
            self._numbers[id(tensor)] = len(self.constants)
            self.constants.append(tensor)
            self.uses.append([])
        return self._numbers[id(tensor)]

    def _operand(self, tensor: gs.Tensor) -> Operand:
        if isinstance(tensor, gs.Constant):
            return self._number(tensor)
        return tensor.name or None

    def _block(self, graph: gs.Graph, main: bool = False) -> Block:
        steps = []
        for node in graph.nodes:
            reads = [self._operand(tensor) for tensor in node.inputs]
            for position, name in enumerate(reads):
                if isinstance(name, int):
                    self.uses[name].append((node, position))
                    self.main |= {name} if main else set()
            blocks = {key: self._block(value) for key, value in node.attrs.items() if isinstance(value, gs.Graph)}
            steps.append(Step(node, rule_for(node), reads, [t.name for t in node.outputs], blocks))
        inputs = [tensor.name for tensor in graph.inputs]
        block = Block(inputs, [self._operand(t) for t in graph.outputs], steps)
        _plan_frees(block)
        return block

    def weights(self) -> dict[str, int]:
        """The constants that are trained by default, by name: floats of several numbers that nodes read as weights."""
        return {
            self.constants[number].name: number
            for number in sorted(self.main)
            if floats(self.constants[number])
            and all(_free(node, position) for node, position in self.uses[number])
            and not _hides(self.constants[number])
        }

    def trace(self, trained: Collection[int]) -> None:
        """Note at every step of the main graph what it depends on."""
        fed, learned = set(self.block.inputs), set[Operand](trained)
        for step in self.block.steps:
            names = set(step.names())
            step.trained = not learned.isdisjoint(names)
            step.constant = not step.trained and fed.isdisjoint(names) and not _drawn(step)
            if step.trained:
                learned |= set(step.writes)
            if not step.constant:
                fed |= set(step.writes)


def _plan_frees(block: Block) -> None:
    """Let every step name what is made here and read no more behind it."""
    made = {name for step in block.steps for name in step.writes}
    seen = {name for name in block.outputs if isinstance(name, str)}
    for step in reversed(block.steps):
        names = {name for name in (*step.names(), *step.writes) if isinstance(name, str) and name in made}
        step.frees = sorted(names - seen)
        seen |= names


def floats(tensor: gs.Constant) -> bool:
    """Whether a constant is a tensor of several floating-point numbers."""
    if isinstance(tensor.dtype, int):
        return False
    dtype = np.dtype(tensor.dtype)
    return (dtype.kind == "f" or dtype.name == "bfloat16") and len(tensor.shape) > 0 and int(np.prod(tensor.shape)) > 1


def _free(node: gs.Node, position: int) -> bool:
    """Whether an input of a node may be trained: it is no extent, statistic, bound, scale or mask."""
    rule = rule_for(node)
    traits = rule.traits_of(node.op)
    fixed = (rule.fixed, rule.parameters, traits.masks, traits.lengths, traits.extents)
    return not any(position in positions for positions in fixed)


def _hides(tensor: gs.Constant) -> bool:
    """Whether a constant is a mask: zeros and one number that hides what it is added to."""
    values = np.asarray(tensor.values)
    low = values.min()
    return bool(not np.isfinite(low) or low <= HIDING) and bool(np.all((values == low) | (values == 0)))


def missing(model: Model) -> list[str]:
    """Why `TorchGraph` cannot compute a model: one reason for each operator without a function; nothing is run.

    A function may still refuse a use of its operator when it runs, with NoFunction.
    """
    plan = Plan(model)
    plan.trace(plan.weights().values())
    return list(dict.fromkeys(_missing(plan.block, None, model.opset)))


def _missing(block: Block, trained: bool | None, opset: int) -> Iterator[str]:
    for step in block.steps:
        learned = step.trained if trained is None else trained
        known = step.rule.has_function(step.node.op) or (step.node.op in CONTROL and not step.node.domain)
        if not known and not refers(step, learned, opset):
            yield str(NoFunction(step.node)).partition(" (node")[0]
        for body in step.blocks.values():
            yield from _missing(body, learned, opset)


def refers(step: Step, trained: bool, opset: int) -> bool:
    """Whether ONNX's reference implementation may stand in: no gradient is lost, and no number drawn."""
    if _drawn(step) or step.node.domain not in ("", "ai.onnx", "ai.onnx.ml", None):
        return False
    return not trained or _discrete(step.node, opset)


def _drawn(step: Step) -> bool:
    """Whether an operator draws random numbers."""
    return not step.rule.traits_of(step.node.op).foldable and not step.rule.has_function(step.node.op)


def _discrete(node: gs.Node, opset: int) -> bool:
    """Whether the results of an operator are never floating-point numbers."""
    try:
        schema = defs.get_schema(node.op, opset, node.domain or "")
    except defs.SchemaError:
        return False
    return not any("float" in kind or "double" in kind for output in schema.outputs for kind in output.types)
