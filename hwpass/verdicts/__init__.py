"""Is it right, is it close, is it good."""
