"""Adapters for tools that run hwpass as a step of theirs; each imports its tool, and nothing imports it."""
