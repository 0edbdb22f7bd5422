"""The forms of a report's file, one module each: `hwpass.reporting.renderer` says what one is."""
