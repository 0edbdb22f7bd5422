"""Which channels go together, and why."""
