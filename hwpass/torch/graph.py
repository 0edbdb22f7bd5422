"""The graph of a model as a differentiable torch function over its own initialisers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from hwpass.errors import InputError
from hwpass.model.model import Model
from hwpass.ops.functions.common import array_of, given, integers, tensor_of, torch
from hwpass.ops.rule import NoFunction
from hwpass.torch.plan import Block, Operand, Plan, Step, floats, missing, refers

__all__ = ["TorchGraph", "missing"]


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
        plan = Plan(model)
        chosen = plan.weights() if train is None else _named(plan, train)
        plan.trace(chosen.values())
        self._block, self._opset = plan.block, model.opset
        self._domains = [helper.make_opsetid(d.domain, d.version) for d in model.graph.import_domains or []]
        self._held = [
            None if n in chosen.values() else tensor_of(np.asarray(t.values)) for n, t in enumerate(plan.constants)
        ]
        self._numbers = {name: (number, plan.constants[number]) for name, number in chosen.items()}
        self._read: dict[int, Any] = {}  # the types that weights have where they are read
        self.parameters: dict[str, Any] = {}
        for name, (number, tensor) in self._numbers.items():
            start = tensor_of(np.asarray(tensor.values))
            self._read[number] = start.dtype
            self.parameters[name] = torch.nn.Parameter(start.float() if start.dtype.itemsize < 4 else start)
        self._known: dict[str, Any] | None = None
        self._references: dict[int, Any] = {}
        self._moving = [step for step in plan.block.steps if not step.constant]
        self._still = {name for step in plan.block.steps if step.constant for name in step.writes}
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
        if self._known is None or self._still.intersection(keep) - self._known.keys():
            self._known = (self._known or {}) | self._constants(set(keep))
        values.update(self._known)
        held = list(self._held)
        for name, parameter in self.parameters.items():
            number = self._numbers[name][0]
            held[number] = parameter.to(self._read[number])
        run = _Run(self, held, frozenset(keep))
        run.steps(self._moving, values)
        found = {}
        for tensor, operand in zip(self.model.graph.outputs, self._block.outputs, strict=True):
            found[tensor.name] = _declared(tensor, run.operand(operand, values))
        return found | {name: values[name] for name in keep if name not in found}

    def _constants(self, keep: set[str]) -> dict[str, Any]:
        """What depends on no input and no parameter, and is read by what does, or kept."""
        steps = [step for step in self._block.steps if step.constant]
        read = {name for step in self._moving for name in step.names()}
        read |= keep | set(self._block.outputs)
        values: dict[str, Any] = {}
        with torch.no_grad():
            _Run(self, self._held, frozenset(n for n in read if isinstance(n, str))).steps(steps, values)
        return {name: value for name, value in values.items() if name in read}

    def double(self) -> TorchGraph:
        """Compute in double precision from now on, on inputs of that: it shows what rounding makes of the results.

        Where a node casts to single precision, products of both are refused by torch.
        """
        self._held = [_doubled(value) for value in self._held]
        self.parameters = {name: torch.nn.Parameter(_doubled(p.detach())) for name, p in self.parameters.items()}
        self._read = dict.fromkeys(self._read, torch.float64)
        self._known = None
        return self

    def write(self) -> None:
        """Put the values of the parameters into the model's constants, each of its own type.

        A constant that several nodes read stays one.
        """
        for name, (_, tensor) in self._numbers.items():
            dtype = np.asarray(tensor.values).dtype
            tensor.values = np.array(array_of(self.parameters[name]).astype(dtype))

    def _reference(self, step: Step, inputs: list[Any]) -> list[Any]:
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


def _named(plan: Plan, names: Collection[str]) -> dict[str, int]:
    numbers = {plan.constants[n].name: n for n in plan.main if floats(plan.constants[n])}
    wrong = sorted(set(names) - numbers.keys())
    if wrong:
        raise InputError(f"{wrong[0]!r} is no floating-point constant of several numbers in the main graph")
    return {name: numbers[name] for name in names}


def _fed(value: Any) -> Any:
    """What comes from outside as torch tensors; what torch has no type for, and lists, are as they are."""
    if isinstance(value, list):
        return [_fed(entry) for entry in value]
    return value if isinstance(value, torch.Tensor) else tensor_of(np.asarray(value))


def _doubled(value: Any) -> Any:
    """A tensor of floats in double precision; anything else as it is."""
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


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

    def steps(self, steps: list[Step], values: dict[str, Any]) -> None:
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

    def _step(self, step: Step, inputs: list[Any], values: dict[str, Any]) -> Sequence[Any]:
        node, opset = step.node, self._graph._opset
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
            if not refers(step, step.trained, opset):
                raise
        except (NotImplementedError, RuntimeError) as error:
            # Torch lacks some operators for some types, mostly unsigned ones.
            if "not implemented" not in str(error) or not refers(step, step.trained, opset):
                raise
        return self._graph._reference(step, inputs)

    def body(self, block: Block, inputs: Sequence[Any], values: Mapping[str, Any]) -> list[Any]:
        """The outputs of a body."""
        inner = {**values, **dict(zip(block.inputs, inputs, strict=True))}
        self.steps(block.steps, inner)
        return [self.operand(name, inner) for name in block.outputs]

    def branch(self, step: Step, inputs: list[Any], values: dict[str, Any]) -> Sequence[Any]:
        """If: the body that the condition chooses."""
        return self.body(step.blocks["then_branch" if bool(inputs[0].item()) else "else_branch"], [], values)

    def loop(self, step: Step, inputs: list[Any], values: dict[str, Any]) -> Sequence[Any]:
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

    def scan(self, step: Step, inputs: list[Any], values: dict[str, Any]) -> Sequence[Any]:
        """Scan: the body over slices, with what it carries on, and what it hands out stacked."""
        if self._graph._opset < 9:
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


#: What computes the operators with bodies.
_CONTROL = {"If": _Run.branch, "Loop": _Run.loop, "Scan": _Run.scan}
