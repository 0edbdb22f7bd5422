"""Files that appear whole or not at all, and data read from them."""
