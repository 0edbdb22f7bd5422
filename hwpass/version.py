"""The version of hwpass."""

__version__ = "0.1.0"
