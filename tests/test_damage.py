"""Damaged models end as input that cannot be used, in one line, or they are models after all: never in anything else.

HWPASS_DAMAGED=5000 tries that many from a seed of HWPASS_SEED on.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest
from damage import DAMAGES, SOUND, damaged
from oracle import feeds_of

import hwpass
from hwpass.errors import BudgetError, InputError, VerdictError
from hwpass.ir import Model
from hwpass.sessions import open_session

COUNT = int(os.environ.get("HWPASS_DAMAGED", "400"))
FIRST = int(os.environ.get("HWPASS_SEED", "0"))


def one_line(text: str) -> bool:
    return "\n" not in text and 10 < len(text) < 2000


@pytest.mark.parametrize("make", SOUND)
def test_the_sound_models_are_pruned(make: object) -> None:
    result = hwpass.run(make(), "server-cpu", macs=0.8, score="l2", align=1)  # type: ignore[operator]
    assert result.report.verdicts.exactness is not None


def test_damaged_models_are_refused_on_loading_or_load_in_onnx_runtime() -> None:
    refused: Counter[str] = Counter()
    for seed in range(FIRST, FIRST + COUNT):
        data, what = damaged(seed)
        try:
            model = Model.load(data)
        except InputError as error:
            assert one_line(str(error)), (seed, what, str(error))
            refused.update(what.split(", "))
            continue
        except Exception as error:
            raise AssertionError(f"seed {seed} ({what}): {error!r}") from error
        try:
            assert feeds_of(model.interface(), 0) is not None
            open_session(model.proto(), optimise=False)
        except InputError as error:
            text = str(error)
            assert "implementation" in text or "input" in text or "shape" in text, (seed, what, text)
    assert len(refused) > len(DAMAGES) // 2


@pytest.mark.parametrize("part", range(8))
def test_damaged_models_end_in_a_documented_status(part: int) -> None:
    for seed in range(FIRST + part, FIRST + COUNT // 4, 8):
        data, what = damaged(seed)
        try:
            hwpass.run(data, "server-cpu", macs=0.6, score="l2", align=1)
        except (InputError, BudgetError, VerdictError) as error:
            assert one_line(str(error)), (seed, what, str(error))
        except Exception as error:
            raise AssertionError(f"seed {seed} ({what}): {error!r}") from error
