"""Operator rules, one class per family: how axes couple, how a node shrinks, and what work it does."""

from hwpass.ops.rule import Node, Product, Rule, Shrink, Tensor, rule_for

__all__ = ["Node", "Product", "Rule", "Shrink", "Tensor", "rule_for"]
