"""The scores, one module per idea: `hwpass.planning.score` says what one is."""
