"""Threads of linear algebra: one inside passes, as many as asked for on large products, and afterwards as before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.linalg import cho_factor
from sketch import Sketch
from threadpoolctl import threadpool_info

from hwpass.context import Context
from hwpass.data.row_table import RowTable
from hwpass.manager import Pass, PassManager, PassResult
from hwpass.model.model import Model
from hwpass.runtime.blas_threads import DEEP, limited
from hwpass.surgery import least_squares, ridge
from hwpass.surgery.least_squares import fit


def most() -> int:
    """The most threads that any BLAS would take now."""
    found: int = max(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas")
    return found


@dataclass(frozen=True)
class Look(Pass):
    """Tells how many threads there are while it runs."""

    name = "look-for-a-test"
    tell: Callable[[int], None] = print

    def run(self, model: Model, context: Context) -> PassResult:
        self.tell(most())
        return PassResult(model, False)


def test_a_pass_has_one_thread_and_leaves_the_others_as_they_were() -> None:
    sketch = Sketch()
    sketch.output(sketch.op("Relu", sketch.input([1, 4])))
    seen: list[int] = []
    with limited(3):
        PassManager([Look(seen.append)]).run(Model.load(sketch.model()), Context(threads=2))
        assert (seen, most()) == ([1], 3)


@pytest.mark.parametrize(("depth", "threads", "expected"), [(3, 2, 1), (DEEP, 2, 2), (DEEP, 1, 1)])
def test_a_fit_takes_threads_where_it_is_large(
    depth: int, threads: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def watched(*arguments: object, **options: object) -> object:
        seen.append(most())
        return cho_factor(*arguments, **options)

    monkeypatch.setattr(ridge, "cho_factor", watched)
    monkeypatch.setattr(least_squares, "LAMBDAS", least_squares.LAMBDAS[:3])
    x = np.random.default_rng(0).standard_normal((16, depth)).astype(np.float32)
    fit(RowTable([x]), RowTable([x[:, :1]]), np.zeros((depth, 1)), np.zeros(1), 4, has_bias=True, threads=threads)
    assert set(seen) == {expected}
