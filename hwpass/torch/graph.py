"""The graph of a model as a differentiable torch function over its own initialisers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import defs, helper
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from hwpass.errors import InputError
from hwpass.model.model import Model
from hwpass.ops.functions.common import array_of, given, integers, tensor_of, torch
from hwpass.ops.rule import NoFunction, Rule, rule_for

#: Entries of a mask that hide what they are added to are at most this.
HIDING = -100.0

#: What a node reads: a tensor by its name, a constant by its number, or nothing.
Operand = str | int | None


@dataclass
class _Step:
    """One node, what it reads and writes, and what nobody reads after it."""

    node: gs.Node
    rule: Rule
    reads: list[Operand]
    writes: list[str]
    blocks: dict[str, _Block] = field(default_factory=dict)
    frees: list[str] = field(default_factory=list)
    constant: bool = False  # it depends on no input and no parameter
    trained: bool = False  # it depends on a parameter

    def names(self) -> Iterator[Operand]:
        """Everything that it and its bodies read from around it."""
        yield from self.reads
        for block in self.blocks.values():
            yield from block.outer()


@dataclass
class _Block:
    """A graph or a body as steps in order."""

    inputs: list[str]
    outputs: list[Operand]
    steps: list[_Step]

    def outer(self) -> Iterator[Operand]:
        """What is read here and made outside."""
        made = {*self.inputs, *(name for step in self.steps for name in step.writes)}
        yield from (name for step in self.steps for name in step.names() if name not in made)
        yield from (name for name in self.outputs if name not in made)


class _Plan:
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

    def _block(self, graph: gs.Graph, main: bool = False) -> _Block:
        steps = []
        for node in graph.nodes:
            reads = [self._operand(tensor) for tensor in node.inputs]
            for position, name in enumerate(reads):
                if isinstance(name, int):
                    self.uses[name].append((node, position))
                    self.main |= {name} if main else set()
            blocks = {key: self._block(value) for key, value in node.attrs.items() if isinstance(value, gs.Graph)}
            steps.append(_Step(node, rule_for(node), reads, [t.name for t in node.outputs], blocks))
        inputs = [tensor.name for tensor in graph.inputs]
        block = _Block(inputs, [self._operand(t) for t in graph.outputs], steps)
        _plan_frees(block)
        return block

    def weights(self) -> dict[str, int]:
        """The constants that are trained by default, by name: floats of several numbers that nodes read as weights."""
        return {
            self.constants[number].name: number
            for number in sorted(self.main)
            if _floats(self.constants[number])
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


def _plan_frees(block: _Block) -> None:
    """Let every step name what is made here and read no more behind it."""
    made = {name for step in block.steps for name in step.writes}
    seen = {name for name in block.outputs if isinstance(name, str)}
    for step in reversed(block.steps):
        names = {name for name in (*step.names(), *step.writes) if isinstance(name, str) and name in made}
        step.frees = sorted(names - seen)
        seen |= names


def _floats(tensor: gs.Constant) -> bool:
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
    plan = _Plan(model)
    plan.trace(plan.weights().values())
    return list(dict.fromkeys(_missing(plan.block, None, model.opset)))


def _missing(block: _Block, trained: bool | None, opset: int) -> Iterator[str]:
    for step in block.steps:
        learned = step.trained if trained is None else trained
        known = step.rule.has_function(step.node.op) or (step.node.op in _CONTROL and not step.node.domain)
        if not known and not _refers(step, learned, opset):
            yield str(NoFunction(step.node)).partition(" (node")[0]
        for body in step.blocks.values():
            yield from _missing(body, learned, opset)


def _refers(step: _Step, trained: bool, opset: int) -> bool:
    """Whether ONNX's reference implementation may stand in: no gradient is lost, and no number drawn."""
    if _drawn(step) or step.node.domain not in ("", "ai.onnx", "ai.onnx.ml", None):
        return False
    return not trained or _discrete(step.node, opset)


def _drawn(step: _Step) -> bool:
    """Whether an operator draws random numbers."""
    return not step.rule.traits_of(step.node.op).foldable and not step.rule.has_function(step.node.op)


def _discrete(node: gs.Node, opset: int) -> bool:
    """Whether the results of an operator are never floating-point numbers."""
    try:
        schema = defs.get_schema(node.op, opset, node.domain or "")
    except defs.SchemaError:
        return False
    return not any("float" in kind or "double" in kind for output in schema.outputs for kind in output.types)


class TorchGraph:
    """The graph of a model as a function of torch tensors, differentiable in the model's own weights.

    `parameters` are trained: by default all floating-point constants of several numbers that nodes of the main graph
    read, but for statistics, bounds, scales of quantised tensors, and masks. Weights of 16 bits are float32 there, and
    rounded where they are read. What depends on no input and no parameter is computed at the first call alone.
    """

    def __init__(self, model: Model, train: Collection[str] | None = None) -> None:
        """Take over the weights of a model. `train` names the constants to be trained, instead of the usual ones.

        Raises InputError for a name in `train` that is no floating-point constant of the main graph.
        """
        self.model = model
        plan = _Plan(model)
        chosen = plan.weights() if train is None else _named(plan, train)
        plan.trace(chosen.values())
        self._block, self._opset = plan.block, model.opset
        self._domains = [helper.make_opsetid(d.domain, d.version) for d in model.graph.import_domains or []]
        self._held = [
            None if n in chosen.values() else tensor_of(np.asarray(t.values)) for n, t in enumerate(plan.constants)
        ]
        self._numbers = {name: (number, plan.constants[number]) for name, number in chosen.items()}
        self._read = {number: tensor_of(tensor.values).dtype for number, tensor in self._numbers.values()}
        self.parameters: dict[str, Any] = {}
        for name, (number, tensor) in self._numbers.items():
            start = tensor_of(tensor.values)
            small = self._read[number].itemsize < 4
            self.parameters[name] = torch.nn.Parameter(start.float() if small else start)
        self._known: dict[str, Any] | None = None
        self._references: dict[int, Any] = {}
        self._produced = {*plan.block.inputs, *(name for step in plan.block.steps for name in step.writes)} - {""}

    def __call__(self, feed: Mapping[str, Any], keep: Sequence[str] = ()) -> dict[str, Any]:
        """The outputs of the model, and the inner tensors named in `keep`, by name.

        `feed` has a tensor, or an array, of the declared type for every input of the model. Raises InputError for a
        missing input or an unknown name, NoFunction for an operator, or a use of it, that has no function.
        """
        lacking = [name for name in self._block.inputs if name not in feed]
        unknown = [name for name in keep if name not in self._produced]
        if lacking or unknown:
            raise InputError(f"no input {lacking[0]!r} is given" if lacking else f"no tensor is named {unknown[0]!r}")
        values = {name: _fed(feed[name]) for name in self._block.inputs}
        if self._known is None:
            self._known = self._constants(set(keep))
        elif any(step.constant and not set(keep).isdisjoint(step.writes) for step in self._block.steps):
            self._known |= self._constants(set(keep))
        values.update(self._known)
        held = list(self._held)
        for name, parameter in self.parameters.items():
            number = self._numbers[name][0]
            held[number] = parameter.to(self._read[number])
        run = _Run(self, held, frozenset(keep))
        run.steps([step for step in self._block.steps if not step.constant], values)
        found = {}
        for tensor, operand in zip(self.model.graph.outputs, self._block.outputs, strict=True):
            found[tensor.name] = _declared(tensor, run.operand(operand, values))
        return found | {name: values[name] for name in keep if name not in found}

    def _constants(self, keep: set[str]) -> dict[str, Any]:
        """What depends on no input and no parameter, and is read by what does, or kept."""
        steps = [step for step in self._block.steps if step.constant]
        read = {name for step in self._block.steps if not step.constant for name in step.names()}
        read |= keep | set(self._block.outputs)
        values: dict[str, Any] = {}
        with torch.no_grad():
            _Run(self, self._held, frozenset(n for n in read if isinstance(n, str))).steps(steps, values)
        return {name: value for name, value in values.items() if name in read}

    def write(self) -> None:
        """Put the values of the parameters into the model's constants, each of its own type.

        A constant that several nodes read stays one.
        """
        for name, (_, tensor) in self._numbers.items():
            dtype = np.asarray(tensor.values).dtype
            tensor.values = np.array(array_of(self.parameters[name]).astype(dtype))

    def reference(self, step: _Step, inputs: list[Any]) -> list[Any]:
        """The outputs of a step by ONNX's reference implementation: no gradient flows through."""
        from onnx.reference import ReferenceEvaluator

        key = id(step)
        names = [f"i{place}" if value is not None else "" for place, value in enumerate(inputs)]
        if key not in self._references:
            node = OnnxExporter.export_node(step.node)
            del node.input[:]
            node.input.extend(names)
            made = [onnx.ValueInfoProto(name=name) for name in names if name]
            outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
            graph = helper.make_graph([node], "node", made, outputs)
            imports = self._domains or [helper.make_opsetid("", self._opset)]
            self._references[key] = ReferenceEvaluator(helper.make_model(graph, opset_imports=imports))
        feed = {name: _plain(value) for name, value in zip(names, inputs, strict=True) if name}
        with np.errstate(all="ignore"):
            found = iter(self._references[key].run(None, feed))
        return [_fed(next(found)) if name else None for name in step.writes]

    @property
    def opset(self) -> int:
        """The version of the standard operator set."""
        return self._opset


def _named(plan: _Plan, names: Collection[str]) -> dict[str, int]:
    numbers = {plan.constants[n].name: n for n in plan.main if _floats(plan.constants[n])}
    wrong = sorted(set(names) - numbers.keys())
    if wrong:
        raise InputError(f"{wrong[0]!r} is no floating-point constant of several numbers in the main graph")
    return {name: numbers[name] for name in names}


def _fed(value: Any) -> Any:
    """What comes from outside as torch tensors; what torch has no type for, and lists, are as they are."""
    if isinstance(value, list):
        return [_fed(entry) for entry in value]
    return value if isinstance(value, torch.Tensor) else tensor_of(np.asarray(value))


def _plain(value: Any) -> Any:
    """A tensor, or a list of them, as NumPy arrays."""
    return [_plain(entry) for entry in value] if isinstance(value, list) else array_of(value)


def _declared(tensor: gs.Tensor, value: Any) -> Any:
    """An output in the type that it is declared with: integers that were held as floats are integers again."""
    dtype = getattr(tensor, "dtype", None)
    if dtype is None or isinstance(dtype, int) or not hasattr(value, "is_floating_point"):
        return value
    if np.dtype(dtype).kind in "iu" and value.is_floating_point():
        return value.detach().to(getattr(torch, np.dtype(dtype).name))
    return value


class _Run:
    """One evaluation: steps over a dictionary of values."""

    def __init__(self, graph: TorchGraph, held: list[Any], keep: frozenset[str]) -> None:
        self._graph, self._held, self._keep = graph, held, keep

    def operand(self, name: Operand, values: Mapping[str, Any]) -> Any:
        """The value of what a node reads."""
        return None if name is None else self._held[name] if isinstance(name, int) else values[name]

    def steps(self, steps: list[_Step], values: dict[str, Any]) -> None:
        """Compute steps in order; what no later step reads and nobody keeps is forgotten."""
        for step in steps:
            inputs = [self.operand(name, values) for name in step.reads]
            try:
                found = self._step(step, inputs, values)
            except Exception as error:
                error.add_note(f"in node {step.node.name or step.writes[0]} ({step.node.op})")
                raise
            values.update(zip(step.writes, found, strict=False))
            for name in step.frees:
                if name not in self._keep:
                    values.pop(name, None)

    def _step(self, step: _Step, inputs: list[Any], values: dict[str, Any]) -> Sequence[Any]:
        node, opset = step.node, self._graph.opset
        if step.blocks:
            control = _CONTROL.get(node.op) if not node.domain else None
            if control is None:
                raise NoFunction(node)
            return list(control(self, step, inputs, values))
        try:
            foreign = next((v for v in inputs if isinstance(v, np.ndarray)), None)
            if foreign is not None:
                raise NoFunction(node, f"the type {foreign.dtype.name}")
            return step.rule.torch(node, inputs, opset)
        except NoFunction:
            if not _refers(step, step.trained, opset):
                raise
        except (NotImplementedError, RuntimeError) as error:
            # Torch lacks some operators for some types, mostly unsigned ones.
            if "not implemented" not in str(error) or not _refers(step, step.trained, opset):
                raise
        return self._graph.reference(step, inputs)

    def body(self, block: _Block, inputs: Sequence[Any], values: Mapping[str, Any]) -> list[Any]:
        """The outputs of a body."""
        inner = {**values, **dict(zip(block.inputs, inputs, strict=True))}
        self.steps(block.steps, inner)
        return [self.operand(name, inner) for name in block.outputs]

    def branch(self, step: _Step, inputs: list[Any], values: dict[str, Any]) -> Sequence[Any]:
        """If: the body that the condition chooses."""
        return self.body(step.blocks["then_branch" if bool(inputs[0].item()) else "else_branch"], [], values)

    def loop(self, step: _Step, inputs: list[Any], values: dict[str, Any]) -> Sequence[Any]:
        """Loop: the body again and again, with what it carries on, and what it hands out stacked."""
        block, state = step.blocks["body"], list(inputs[2:])
        most = None if given(inputs, 0) is None else integers(inputs[0])[0]
        go = True if given(inputs, 1) is None else bool(inputs[1].item())
        stacked: list[list[Any]] = [[] for _ in range(len(block.outputs) - 1 - len(state))]
        rounds = 0
        while go and (most is None or rounds < most):
            condition, *found = self.body(block, [torch.tensor(rounds), torch.tensor(go), *state], values)
            go, rounds = bool(condition.item()), rounds + 1
            state = found[: len(state)]
            for part, value in zip(stacked, found[len(state) :], strict=True):
                part.append(value)
        if stacked and not rounds:
            raise NoFunction(step.node, "no round at all, with results to be stacked")
        return [*state, *(torch.stack(part) for part in stacked)]

    def scan(self, step: _Step, inputs: list[Any], values: dict[str, Any]) -> Sequence[Any]:
        """Scan: the body over slices, with what it carries on, and what it hands out stacked."""
        if self._graph.opset < 9:
            raise NoFunction(step.node, "batches of sequences")
        block, count = step.blocks["body"], int(step.node.attrs["num_scan_inputs"])
        state, slices = inputs[: len(inputs) - count], inputs[len(inputs) - count :]
        handed = len(block.outputs) - len(state)
        axes, ways, out_axes, out_ways = (
            integers(step.node.attrs.get(f"scan_{name}") or [0] * size)
            for name, size in (("input_axes", count), ("input_directions", count), ("output_axes", handed),
                               ("output_directions", handed))
        )  # fmt: skip
        slices = [x.movedim(axis, 0).flip(0) if way else x.movedim(axis, 0)
                  for x, axis, way in zip(slices, axes, ways, strict=True)]  # fmt: skip
        stacked: list[list[Any]] = [[] for _ in range(handed)]
        for t in range(slices[0].shape[0]):
            found = self.body(block, [*state, *(x[t] for x in slices)], values)
            state = found[: len(state)]
            for part, value in zip(stacked, found[len(state) :], strict=True):
                part.append(value)
        ends = [torch.stack(part[::-1] if way else part) for part, way in zip(stacked, out_ways, strict=True)]
        return [*state, *(y.movedim(0, axis) for y, axis in zip(ends, out_axes, strict=True))]


#: Operators with bodies.
_CONTROL = {"If": _Run.branch, "Loop": _Run.loop, "Scan": _Run.scan}
