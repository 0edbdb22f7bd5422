"""Operator rules, one class per family: how axes couple, how a node shrinks, what work it does, and its traits."""

from hwpass.ops.rule import Form, Node, Product, Rule, Shrink, Tensor, Traits, rule_for, traits_of

__all__ = ["Form", "Node", "Product", "Rule", "Shrink", "Tensor", "Traits", "rule_for", "traits_of"]
