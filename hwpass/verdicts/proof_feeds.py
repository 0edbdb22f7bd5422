"""What models are compared on: inputs drawn from what the graph says of them, and some of the user's own."""

from __future__ import annotations

from hwpass.data.proof_inputs import proof_inputs
from hwpass.model.model import Model
from hwpass.runtime.inputs import input_specs
from hwpass.runtime.memory import release_memory
from hwpass.runtime.sessions import Feed, open_session, run_session
from hwpass.runtime.settings import Settings
from hwpass.spans import span
from hwpass.verdicts.proof_sides import AsGiven


@span("inputs of the proof")
def proof_feeds(model: Model, context: Settings, given: AsGiven) -> list[Feed]:
    """Feeds that run in the given model, which knows its outputs on them afterwards.

    `model` is the given one as it was loaded, or one made of it with the same inputs. Raises InputError when nothing
    runs.
    """
    specs = input_specs(model.interface())
    session = open_session(given.model, threads=context.threads, level="lean")
    try:
        found = proof_inputs(
            given.model, specs, model=model, session=session, seed=context.seed, threads=context.threads
        )
        feeds, outputs = list(found.feeds), list(found.outputs)
        if context.calibration is not None:
            feeds.append(next(iter(context.calibration.batches(4, limit=4))))
            outputs.append(run_session(session, feeds[-1]))
        given.know(session, feeds, outputs)
        return feeds
    finally:
        del session
        release_memory()
