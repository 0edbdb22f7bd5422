"""Operators as differentiable functions of torch tensors, one module per family; rules name them in `functions`.

Importing these modules does not import torch: that is put off until a function runs.
"""
