"""What models are compared on: made-up inputs at several sizes of each dynamic axis, and some of the user's own."""

from __future__ import annotations

from hwpass.errors import InputError
from hwpass.inputs import dimension_values, input_specs, make_inputs
from hwpass.ir import Model
from hwpass.manager import Context
from hwpass.proof_sides import AsGiven
from hwpass.sessions import Feed, open_session, release_memory, run_session


def proof_feeds(model: Model, context: Context, given: AsGiven) -> list[Feed]:
    """Feeds that run in the given model, which knows its outputs on them afterwards; the smallest come first.

    Raises InputError when nothing runs.
    """
    interface = model.interface()
    specs = input_specs(interface)
    session = open_session(given.model, threads=context.threads)
    try:
        feeds: list[Feed] = []
        reference: list[Feed] = []
        sizes = dimension_values(interface, session=session)
        for number, dims in enumerate(sizes if len(sizes) > 1 else sizes * 2):
            for tokens in (16, 2):  # token types and the like have tables of two rows
                feed = make_inputs(specs, dims, context.seed + number, max_token=tokens)
                try:
                    reference.append(run_session(session, feed))
                except InputError:
                    if tokens == 2:
                        raise
                    continue
                feeds.append(feed)
                break
        if context.calibration is not None:
            feeds.append(next(iter(context.calibration.batches(4, limit=4))))
            reference.append(run_session(session, feeds[-1]))
        given.know(session, feeds, reference)
        return feeds
    finally:
        del session
        release_memory()
