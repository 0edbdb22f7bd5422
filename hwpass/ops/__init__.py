"""Operator rules, one class per family: how axes couple, how a node shrinks, its traits, its torch function."""

from hwpass.ops.rule import Form, Node, NoFunction, Product, Rule, Shrink, Tensor, Traits, rule_for, traits_of

__all__ = ["Form", "NoFunction", "Node", "Product", "Rule", "Shrink", "Tensor", "Traits", "rule_for", "traits_of"]
