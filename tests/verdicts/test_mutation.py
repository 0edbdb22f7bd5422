"""Faults in the product are caught: any statement of an operator rule that is left out, by the twin, the checker, or a
refusal to prune; faults in any layer, planted in its source while it runs, by the verdicts that users see."""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache
from pathlib import Path

import onnx
import pytest
from faults import FAULTS, LAYERS, SUBJECTS
from mutants import LINES, UNWITNESSED, all_watched, rule_classes, watched
from oracle import Inexact, check, feeds_of
from planted import Fault, function_of, outcome, planted
from witnesses import every_model

import hwpass.ops
from hwpass.coupling.groups import couple
from hwpass.model.model import Model
from hwpass.ops.rule import rules
from hwpass.surgery.cut import prune
from hwpass.surgery.dense_twin import dense_twin
from hwpass.verdicts.exactness import exactness

SEEDS = (0, 1)


# --- faults planted in the product


@pytest.mark.parametrize("name", sorted(SUBJECTS))
def test_the_sound_product_passes_and_removes_channels(name: str, tmp_path: Path) -> None:
    SUBJECTS[name].write(tmp_path)
    assert outcome(SUBJECTS[name], tmp_path) == (0, "")
    before, after = (
        {tuple(tensor.shape) for tensor in Model.load(tmp_path / file).constants().values()}
        for file in ("given.onnx", "result.onnx")
    )
    assert after - before, "no weight is narrower than it was"


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault_ends_in_a_failed_verdict_and_no_file(fault: Fault, tmp_path: Path) -> None:
    subject = SUBJECTS[fault.subject]
    subject.write(tmp_path)
    with planted(fault):
        status, message = outcome(subject, tmp_path)
    assert status == 5, f"{fault.says}: status {status}, {message}"


def test_faults_are_of_every_layer_and_rule_family() -> None:
    assert len(FAULTS) == len({fault.says for fault in FAULTS}) >= 240
    assert {layer for layer, faults in LAYERS.items() if len(faults) < 3} == set()
    modules = Counter(function_of(fault.where).__module__.rpartition(".")[2] for fault in LAYERS["rules"])
    families = {type(rule).__module__.rpartition(".")[2] for rule in rules().values()}
    assert {family for family in families if modules[family] < 2} == set()


def test_a_planted_fault_is_gone_afterwards(tmp_path: Path) -> None:
    fault = FAULTS[0]
    before = function_of(fault.where).__code__
    with planted(fault):
        assert function_of(fault.where).__code__ is not before
    assert function_of(fault.where).__code__ is before


# --- statements of rules left out

#: Statements that may be left out without any model going wrong, and why.
EQUIVALENT = {
    (
        "LayerNormalization",
        "LayerNormalization.couple freeze #2",
    ): "the scale is in no layer's weight: nobody removes it",
    (
        "LayerNormalization",
        "LayerNormalization.couple freeze #3",
    ): "the bias is in no layer's weight: nobody removes it",
    ("Recurrent", "Recurrent._unit freeze #2"): "channels are looked for in W, and R's gates are in R alone",
    ("Recurrent", "Recurrent._unit freeze #3"): "channels are looked for in W, and B's gates are in B alone",
    ("Recurrent", "Recurrent._unit freeze #4"): "channels are looked for in W, and P's gates are in P alone",
    ("Recurrent", "Recurrent.couple freeze #5"): "channels are looked for in W, and P's directions are in P alone",
    ("Reduce", "refusal: the rank of an input is unknown"): "the operand of unknown rank is the only one",
    ("Transpose", "refusal: the rank of an input is unknown"): "the operand of unknown rank is the only one",
}

#: Rules that relate nothing: what they hand out is never a channel.
SILENT = {
    "If": "the solver freezes what bodies hand out, before the rule is asked",
    "Range": "a sequence of positions",
    "Shape": "extents are read, and follow the pruned tensor by themselves",
}


@cache
def witnesses() -> dict[str, onnx.ModelProto]:
    return dict(every_model())


@cache
def facts() -> dict[tuple[str, str], list[str]]:
    """Every statement of every rule, with the witnesses in which it is made."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, proto in witnesses().items():
        stated: dict[str, set[str]] = {}
        with all_watched(stated):
            couple(Model.load(proto))
        for rule, own in stated.items():
            for fact in own:
                found.setdefault((rule, fact), []).append(name)
    return found


def caught(rule: str, fact: str) -> str | None:
    """How the mutant is caught, with the witness; None when it survives all of them."""
    # Sums tell a wrong zero, layers tell a wrong width.
    reader = "/sum" if "zero" in fact else "/layer"
    names = sorted(facts()[rule, fact], key=lambda name: not name.endswith(reader))
    with watched(rule, rule_classes()[rule], set(), fact):
        for seed in SEEDS:
            for name in names:
                try:
                    check(witnesses()[name], seed)
                except Exception as error:
                    # Whatever stops the rewrite is a catch: a difference, an invalid model, a refusal.
                    return f"{type(error).__name__}: {error} ({name})"
    return None


def test_witnesses_are_rewritten_exactly() -> None:
    """The unbroken rules pass on every witness, and four in ten witnesses have something to remove."""
    modified = 0
    for name, proto in witnesses().items():
        for seed in SEEDS:
            try:
                outcome = check(proto, seed)
            except Inexact as error:
                pytest.fail(f"{name}, seed {seed}: {error}")
        modified += outcome.surgery.modified
    assert modified >= 0.4 * len(witnesses())


def test_every_rule_has_a_witness() -> None:
    stated = {rule for rule, _ in facts()}
    assert stated | set(SILENT) == set(rule_classes())
    assert not stated & set(SILENT)


@pytest.mark.parametrize("rule", sorted(set(rule_classes()) - set(SILENT)))
def test_breaking_a_statement_is_caught(rule: str) -> None:
    own = [fact for name, fact in sorted(facts()) if name == rule]
    assert own
    survivors = {fact for fact in own if caught(rule, fact) is None}
    allowed = {fact for name, fact in EQUIVALENT if name == rule}
    assert survivors - allowed == set(), "broken rules that nobody notices"
    assert allowed - survivors == set(), "the table of equivalent mutants is out of date"


def test_the_verdict_users_see_catches_what_the_oracle_catches() -> None:
    """A sample of inexact mutants, one per rule, through `hwpass.verdicts.exactness.exactness`."""
    kinds: Counter[bool] = Counter()
    for rule in ("BatchNormalization", "Clip", "Conv", "Gather", "MatMul", "Nary", "Pad", "Pool", "Reduce", "Unary"):
        for fact in sorted(f for r, f in facts() if r == rule):
            how = caught(rule, fact)
            if how is None or not how.startswith("Inexact: output"):
                continue
            name = how[how.rindex("(") + 1 : -1]
            with watched(rule, rule_classes()[rule], set(), fact):
                kinds[_passes(witnesses()[name])] += 1
            break
    assert not kinds[True]
    assert kinds[False] >= 8  # the rest of the ten make invalid models, which the checker refuses before


def _passes(proto: onnx.ModelProto) -> bool:
    from oracle import random_keep

    for seed in SEEDS:
        coupling = couple(Model.load(proto))
        surgery = prune(coupling, random_keep(coupling, seed))
        feeds = feeds_of(proto, seed)
        if not exactness(dense_twin(coupling, surgery).proto(), surgery.model.proto(), feeds).passed:
            return False
    return True


#: Refusals without a witness: contradictions that ONNX Runtime refuses to load (most stand for extents that dynamic
#: dimensions were guessed at wrongly), the operator nobody described (in the random graphs: TopK), a case that coupling
#: rules out beforehand, and what `tests/coupling/test_coupling.py` tries one by one: equations that do not fit, the
#: first Tile.
UNREACHED = {
    "no rule describes", "is missing", "the ranks of input and weight differ", "the extent of the output is unknown",
    "operands of different extents", "cannot be seen as", "squeezes an axis", "the shape does not broadcast",
    "a scalar operand", "an uneven slice of two axes", "the image is smaller than the window",
    "the ranks of its parts", "terms for", "of the equation is none of", "which no input has",
    "by its number",
}  # fmt: skip


def test_every_statement_in_the_source_is_reached() -> None:
    """No call of the builder in `hwpass.ops`, and no refusal, that the witnesses miss."""
    facts()
    missed = []
    for file in sorted(Path(hwpass.ops.__file__).parent.rglob("*.py")):
        if file.stem in UNWITNESSED:
            continue
        text = file.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if _is_statement(node) and not any((file.name, line) in LINES for line in _lines(node)):
                missed.append(f"{file.name}: {ast.get_source_segment(text, node)}")
    assert [m for m in missed if not any(piece in m for piece in UNREACHED)] == []


def _is_statement(node: ast.AST) -> bool:
    if isinstance(node, ast.Raise):
        return isinstance(node.exc, ast.Call) and getattr(node.exc.func, "id", "") == "Freeze"
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    target = node.func
    methods = {"unify", "freeze", "freeze_ids", "factor", "regroup", "flat"}
    return isinstance(target.value, ast.Name) and target.value.id == "build" and target.attr in methods


def _lines(node: ast.AST) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)  # type: ignore[attr-defined]
