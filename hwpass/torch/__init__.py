"""The graph of a model as a differentiable function of its weights; torch is imported when a graph is made."""
