"""The instruments that a run is asked to be watched with."""

from __future__ import annotations

from collections.abc import Callable

from hwpass.errors import UsageError, option
from hwpass.instrument import Instrument
from hwpass.instruments.limits import PassLimit
from hwpass.instruments.measure_each import MeasureEach
from hwpass.instruments.preserved import CheckPreserved
from hwpass.instruments.printing import PrintAfter, on_standard_error
from hwpass.instruments.recording import KeepLastGood
from hwpass.instruments.saving import SaveAfter
from hwpass.instruments.verify_each import VerifyEach
from hwpass.options import RunOptions

#: The options that a run is watched by.
WATCHING = ("verify_each", "measure_each", "print_after", "save_after", "pass_limit", "reproducer", "keep_last_good")


def watched(options: RunOptions) -> list[str]:
    """Those of the options that are given."""
    plain = RunOptions()
    return [name for name in WATCHING if getattr(options, name) != getattr(plain, name)]


def instruments(options: RunOptions, tell: Callable[[str], None] = on_standard_error) -> list[Instrument]:
    """What is asked for, in the order that hooks are called in: what a pass did is shown and kept before a proof may
    refuse it. Raises UsageError."""
    found: list[Instrument] = []
    if options.pass_limit is not None:
        found.append(PassLimit(options.pass_limit))
    if options.measure_each:
        found.append(MeasureEach())
    if options.print_after:
        found.append(PrintAfter(options.print_after, tell))
    if options.save_after is not None:
        found.append(SaveAfter(options.save_after))
    if options.keep_last_good is not None:
        found.append(KeepLastGood(options.keep_last_good))
    if options.verify_each:
        found += [CheckPreserved(), VerifyEach(options.rtol, options.atol)]
    return found


def refuse_beside_search(options: RunOptions) -> None:
    """Raise UsageError where a run that tries many pipelines is asked to watch one."""
    given = watched(options)
    if given:
        raise UsageError(
            f"{option(given[0])} watches one pipeline, and a search for the budget runs many; give a budget"
        )
