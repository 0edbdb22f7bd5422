"""Profiles of the property tests: HYPOTHESIS_PROFILE=thorough searches for long; others repeat each time."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import none

SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example)

# These need torch, which the tests do without.
collect_ignore_glob = [] if find_spec("torch") else ["torch_graph/*"]

# As `python -W error` does: the command line hides warnings from those who did not ask for them.
sys.warnoptions.append("error")

# What a shell starts in the background ignores it, and hands that on to the commands that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("suite", max_examples=300, deadline=None, derandomize=True, database=None,
                          suppress_health_check=SLOW)  # fmt: skip
settings.register_profile("thorough", max_examples=4000, deadline=None, suppress_health_check=SLOW)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


@pytest.fixture(scope="session", autouse=True)
def few_inputs() -> Iterator[None]:
    """Where no data are given, 128 inputs are made up and not 1,024, without a choice among more: as good for all but
    what they are good for.

    `test_synthesis.py` and `test_input_scale.py` are about that, and have as many as a user gets.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hwpass.data.synthetic_inputs.SAMPLES", 128)
        patch.setattr("hwpass.data.synthetic_inputs.POOL", 1)
        patch.setattr("hwpass.data.input_scale.TOLD", 64)
        # Where torch is installed, runs would go on for a minute each; `torch_graph` has what that is about.
        patch.setattr("hwpass.workflows.steps.installed", lambda: False)
        yield


def pytest_collection_finish() -> None:
    """hwpass collects garbage often: what all the tests have loaded need not be looked through each time."""
    _property()  # hypothesis looks for who holds what it makes at its first run, and does not find what is set aside
    gc.collect()
    gc.freeze()


@given(none())
def _property(value: None) -> None:
    assert value is None
