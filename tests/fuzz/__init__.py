"""A fuzzer of everything that hwpass reads: `python -m tests.fuzz --cases 5000 --seed 0`; 300 cases are in the suite.

A case is made from its number alone, so that a violation is reproduced by `python -m tests.fuzz --only NUMBER`.
"""

import sys
from pathlib import Path

# The models are those of the other tests, which pytest finds by their bare names.
if (_TESTS := str(Path(__file__).parent.parent)) not in sys.path:
    sys.path.append(_TESTS)
