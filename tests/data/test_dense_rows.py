"""Rows of the original at sampled positions are what the model gives there, and serve any plan."""

from __future__ import annotations

import numpy as np
import pytest
from sketch import Sketch

from hwpass.data.dense_rows import DenseRows, Wish
from hwpass.data.row_table import Room
from hwpass.data.sampled_rows import sample
from hwpass.model.model import Model
from hwpass.runtime.sessions import open_session, run_session


def test_positions_lie_inside_the_image_and_differ() -> None:
    samples, rows, columns = sample(3, (4, 5), 7, np.random.default_rng(0))
    assert samples.tolist() == [0] * 7 + [1] * 7 + [2] * 7
    assert rows.max() < 4
    assert columns.max() < 5
    assert len({*zip(samples.tolist(), rows.tolist(), columns.tolist(), strict=True)}) == 21


def test_an_image_of_few_places_gives_each_of_them_once() -> None:
    samples, rows = sample(2, (3,), 100, np.random.default_rng(0))
    assert samples.tolist() == [0, 0, 0, 1, 1, 1]
    assert rows.tolist() == [0, 1, 2] * 2
    assert [places.tolist() for places in sample(2, (), 100, np.random.default_rng(0))] == [[0, 1]]


@pytest.mark.parametrize("room", [0, 1 << 20])
def test_rows_are_those_of_the_model(room: int) -> None:
    """Of an image and of rows of features, in memory or in a file, batch by batch."""
    s = Sketch()
    image = s.conv(s.input(["n", 3, 6, 5], "x"), 4, 3)
    tokens = s.op("Transpose", s.op("Reshape", image, s.const(np.asarray([0, 4, -1]))), perm=[0, 2, 1])
    added = s.op("Add", tokens, tokens)
    for output in (image, tokens, added):
        s.output(output)
    model = Model.load(s.model())
    feeds = [{"x": np.random.default_rng(n).standard_normal((n, 3, 6, 5)).astype(np.float32)} for n in (2, 3)]
    wishes = {0: Wish(image, 1, 20), 7: Wish(tokens, -1, 5000, (added, image))}
    found = DenseRows(model, wishes, iter(feeds), 5, room=Room(room), seed=3)
    again = DenseRows(model, wishes, iter(feeds), 5, room=Room(room), seed=3)
    session = open_session(model.proto())
    for number, feed in enumerate(feeds):
        values = run_session(session, feed)
        first, second = found.layer(0), found.layer(7)
        n, y, x = first.where[number]
        assert len(n) == 4 * len(feed["x"])  # 20 rows of 5 samples
        np.testing.assert_allclose(first.rows(number), values[image][n, :, y, x], rtol=1e-4, atol=1e-5)
        n, place = second.where[number]
        assert len(n) == len(feed["x"]) * values[tokens].shape[1]
        np.testing.assert_allclose(second.rows(number), values[tokens][n, place], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(second.rows(number, added), values[added][n, place], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(first.rows(number), again.layer(0).rows(number))
    assert not found.has(1)
    assert not found.layer(7).has(image)  # of another shape


def test_what_is_removed_of_other_axes_is_left_out() -> None:
    """The pruned model has places 0, 2 of three; rows of place 1 go, and place 2 is its second."""
    s = Sketch()
    s.output(s.op("Relu", s.input(["n", 3, 2], "x")))
    model = Model.load(s.model())
    name = model.graph.outputs[0].name
    x = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    rows = DenseRows(model, {0: Wish(name, -1, 100)}, [{"x": x}], 2, room=Room(0))
    left = rows.layer(0, {1: np.asarray([True, False, True])})
    assert left.shapes == [(2, 2, 2)]
    assert [places.tolist() for places in left.where[0]] == [[0, 0, 1, 1], [0, 1, 0, 1]]
    np.testing.assert_array_equal(left.rows(0), x[:, [0, 2]].reshape(4, 2))
