"""What becomes of every operator: the rule table, and the standard operators that are not in it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from onnx import defs

from hwpass.ops.rule import rules
from hwpass.ops.rules.control import Boundary
from hwpass.ops.rules.frozen import Frozen


@dataclass(frozen=True, order=True)
class Treatment:
    """One operator: `treatment` is couples, freezes or no rule; `text` says how, or why."""

    domain: str
    operator: str
    treatment: str
    text: str
    kind: str = ""


def treatments() -> list[Treatment]:
    """Every operator that has a rule, and every current one of the ONNX standard, by domain and name."""
    rows = []
    for (domain, op), rule in rules().items():
        if isinstance(rule, Frozen):
            found = Treatment(domain, op, "freezes", rule.reasons[op], rule.kind)
        else:
            word = "freezes" if isinstance(rule, Boundary) else "couples"
            text = (inspect.getdoc(type(rule)) or "").split("\n")[0]
            found = Treatment(domain, op, word, text, rule.kind)
        rows.append(found)
    known = {(row.domain, row.operator) for row in rows}
    for schema in defs.get_all_schemas():
        key = (schema.domain, schema.name)
        if key in known or schema.deprecated:
            continue
        known.add(key)
        if key == ("", "Constant"):
            rows.append(Treatment(*key, "couples", "A constant, as an initialiser would be."))
        else:
            rows.append(Treatment(*key, "no rule", "freezes the channels around it, as any unknown operator does"))
    return sorted(rows)
