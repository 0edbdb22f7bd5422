"""Engines: files that the timing process loads by path. They import nothing of the package."""
