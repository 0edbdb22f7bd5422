"""The readers of data in files, one module each: `hwpass.runtime.reader` says what one is."""
