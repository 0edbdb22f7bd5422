"""Fidelity in three states: what is judged, what is not, and what random inputs cannot show."""

from __future__ import annotations

import numpy as np
import pytest

from hwpass.verdicts.fidelity import fidelity_of
from hwpass.verdicts.tolerances import parse_fidelity


def test_nan_in_the_place_of_infinity_is_new() -> None:
    """Both are no numbers, and yet not the same; the same infinity is."""
    wanted, worse = np.asarray([[1.0, np.inf]]), np.asarray([[1.0, np.nan]])
    assert fidelity_of([{"y": wanted}], [{"y": worse}]).state == "failed"
    assert fidelity_of([{"y": wanted}], [{"y": -wanted}]).state == "failed"
    assert fidelity_of([{"y": wanted}], [{"y": wanted}]).state == "not judged"


def outputs_like(rng: np.random.Generator, spread: float, size: float = 1.0) -> list[dict[str, np.ndarray]]:
    """Four draws of [2, 5]: a row of choices, and how far each draw is from it."""
    row = rng.standard_normal(5)
    return [{"y": (size * (row + spread * rng.standard_normal((2, 5)))).astype(np.float32)} for _ in range(4)]


def test_without_a_tolerance_nothing_is_judged() -> None:
    """However near: on random inputs the note asks for data, on the user's for a tolerance."""
    drawn = outputs_like(np.random.default_rng(0), 1.0)
    on_random = fidelity_of(drawn, drawn)
    assert (on_random.state, on_random.passed, on_random.alarming) == ("not judged", None, False)
    assert on_random.note == "agrees on 100 % of first choices on random inputs: this says little; give calib"
    given = fidelity_of(drawn, drawn, on="given")
    assert (given.state, given.alarming) == ("not judged", False)
    assert "no tolerance is set" in given.note
    assert given.outputs["y"].figures()["top1"] == 1.0


def test_agreement_of_nearly_all_is_not_called_all() -> None:
    rng = np.random.default_rng(1)
    wanted = [{"y": rng.standard_normal((500, 4))}]
    found = [{"y": wanted[0]["y"].copy()}]
    found[0]["y"][0] *= -1
    assert "agrees on 99 % of first choices" in fidelity_of(wanted, found).note


@pytest.mark.parametrize(("share", "alarming"), [(0.1, False), (0.4, True)])
def test_far_from_the_original_on_the_users_data_is_an_alarm(share: float, alarming: bool) -> None:
    """Relative L2 of about `share` by construction; more than 0.3 is told, whatever the cosine."""
    rng = np.random.default_rng(2)
    wanted = [{"y": rng.standard_normal((200, 5))}]
    found = [{"y": (1 + share) * wanted[0]["y"]}]
    verdict = fidelity_of(wanted, found, on="given")
    assert verdict.state == "not judged"
    assert verdict.alarming is alarming
    assert [w for w in verdict.warnings if "far from the original's" in w] == verdict.warnings
    assert bool(verdict.warnings) is alarming
    assert not fidelity_of(wanted, found).alarming
    # What the user accepts is accepted.
    judged = fidelity_of(wanted, found, [parse_fidelity("rel_l2<=0.5")], on="given")
    assert (judged.state, judged.alarming, judged.warnings) == ("passed", False, [])


def test_a_low_cosine_is_an_alarm() -> None:
    rng = np.random.default_rng(3)
    wanted = [{"y": rng.standard_normal((200, 5))}]
    found = [{"y": wanted[0]["y"] * rng.choice([0.0, 1.0], (200, 5), p=[0.15, 0.85])}]
    verdict = fidelity_of(wanted, found, on="given")
    assert verdict.outputs["y"].cosine < 0.95
    assert verdict.alarming


@pytest.mark.parametrize(("spread", "size", "why"), [(1e-4, 1.0, "nearly the same"), (1.0, 1e-8, "nearly zero")])
def test_outputs_that_show_nothing_on_random_inputs_are_unknown(spread: float, size: float, why: str) -> None:
    """They would agree with anything; on the user's data they are what the model gives."""
    drawn = outputs_like(np.random.default_rng(4), spread, size)
    verdict = fidelity_of(drawn, drawn)
    assert verdict.state == "not judged"
    assert verdict.note.startswith("unknown: output 'y': it is " + why)
    assert verdict.outputs["y"].figures() == {}
    judged = fidelity_of(drawn, drawn, [parse_fidelity("cosine>=0.9")])
    assert judged.state == "failed"
    assert "cannot be judged by cosine>=0.9" in judged.failures[0]
    assert fidelity_of(drawn, drawn, [parse_fidelity("cosine>=0.9")], on="given").state == "passed"


def test_one_output_may_be_unknown_beside_others() -> None:
    drawn = outputs_like(np.random.default_rng(5), 1.0)
    both = [{"y": d["y"], "z": np.ones((2, 3, 4, 4), np.float32)} for d in drawn]
    verdict = fidelity_of(both, both)
    assert "unknown: output 'z'" in verdict.note
    assert "agrees on 100 %" in verdict.note
    assert fidelity_of(both, both, [parse_fidelity("y:cosine>=0.9")]).state == "passed"


def test_an_output_that_varies_over_positions_alone_is_known() -> None:
    """Channels behind axis 1 of images, else last; extents may change from draw to draw."""
    rng = np.random.default_rng(6)
    varies = [{"y": np.broadcast_to(rng.standard_normal((1, 1, 6, 6)), (2, 3, 6, 6))}]
    assert fidelity_of(varies, varies).outputs["y"].unknown is None
    row = rng.standard_normal((1, 3, 1, 1))
    same = [{"y": np.broadcast_to(row, (2, 3, n, n))} for n in (2, 5)]
    assert fidelity_of(same, same).outputs["y"].unknown is not None
    lengths = [{"y": rng.standard_normal((2, n))} for n in (3, 7)]
    assert fidelity_of(lengths, lengths).outputs["y"].unknown is None
