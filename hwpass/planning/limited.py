"""A plan carried out in part: its first groups alone, for the search for the one that breaks something."""

from __future__ import annotations

from hwpass.planning.plan import Plan, PlannedGroup


def narrowed(plan: Plan) -> list[PlannedGroup]:
    """The groups that a plan takes channels from, in its order."""
    return [group for group in plan.groups if len(group.kept) < group.width]


def first_groups(plan: Plan, count: int) -> Plan:
    """The plan with the first `count` of the groups that it narrows; the others stay whole."""
    return plan.model_copy(update={"groups": narrowed(plan)[:count], "weights": []})
