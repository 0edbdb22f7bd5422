"""The one tree of errors. Each carries the exit status that the command line ends with."""

from __future__ import annotations


class HwpassError(Exception):
    """Base of everything hwpass raises on purpose; the message is one line: what, where, the mend."""

    exit_code = 1


class UsageError(HwpassError):
    """An option or a pipeline text makes no sense."""

    exit_code = 2


class InputError(HwpassError):
    """A model, a target or calibration data cannot be used."""

    exit_code = 3


class BudgetError(HwpassError):
    """The budget cannot be met; `achieved` says what could."""

    exit_code = 4


class VerdictError(HwpassError):
    """A verdict failed, so nothing was written."""

    exit_code = 5
