"""Number formats of weights and activations: which there are, where each stands, what it does to the values."""
