"""Cutting channels out, and refitting the remaining weights."""
