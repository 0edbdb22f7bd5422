"""Tables of public measurements, one module for each kind of hardware: what they predict, row by row."""
