"""Passes, one file each. A new pass is one new file here: it registers itself."""
