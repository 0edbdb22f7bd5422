"""Damaged models end as input that cannot be used, in one line, or they are models after all: never in anything else.

HWPASS_DAMAGED=5000 tries that many from a seed of HWPASS_SEED on.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable

import pytest
from damage import DAMAGES, damaged
from sound_models import SOUND

import hwpass
from hwpass.errors import HwpassError
from hwpass.model.model import Model
from hwpass.runtime.sessions import load_problem

COUNT = int(os.environ.get("HWPASS_DAMAGED", "400"))
FIRST = int(os.environ.get("HWPASS_SEED", "0"))


def one_line(text: str) -> bool:
    return "\n" not in text and 10 < len(text) < 2000


@pytest.mark.parametrize("make", SOUND)
def test_the_sound_models_are_pruned(make: object) -> None:
    result = hwpass.run(make(), "server-cpu", macs=0.8, score="l2", align=1)  # type: ignore[operator]
    assert result.report.verdicts.exactness is not None


def refusal(job: Callable[[bytes], object], seed: int) -> HwpassError | None:
    """What a job on a damaged model raised on purpose; anything else fails the test and names the seed."""
    data, what = damaged(seed)
    try:
        job(data)
    except HwpassError as error:
        text = str(error)
        assert one_line(text), (seed, what, text)
        return error
    except Exception as error:
        raise AssertionError(f"seed {seed} ({what}): {error!r}") from error
    return None


def test_damaged_models_are_refused_on_loading_or_are_models() -> None:
    """What is loaded is written as a model that ONNX Runtime loads, unless it has no code for it here."""
    refused: Counter[str] = Counter()

    def job(data: bytes) -> None:
        written = Model.load(data).proto()
        problem = load_problem(written.SerializeToString())
        assert problem is None or "implementation" in problem, problem

    for seed in range(FIRST, FIRST + COUNT):
        error = refusal(job, seed)
        if error is not None:
            assert error.exit_code == 3
            refused.update(damaged(seed)[1].split(", "))
    assert len(refused) > len(DAMAGES) // 2


@pytest.mark.parametrize("part", range(8))
def test_damaged_models_end_in_a_documented_status(part: int) -> None:
    def job(data: bytes) -> None:
        hwpass.run(data, "server-cpu", macs=0.6, score="l2", align=1)

    for seed in range(FIRST + part, FIRST + COUNT // 4, 8):
        error = refusal(job, seed)
        assert error is None or error.exit_code in (3, 4, 5)
