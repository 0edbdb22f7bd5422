"""The proof that a result is what the plan says, in legs, each against a source that does not share what is tested.

The models on the way are a chain: the file as given, the prepared model, the cut model, the refitted one, the one that
is written. Neighbours are compared:

- *preparation*: the file, run by ONNX Runtime from its own bytes, against the prepared model (loading, folding);
- *removal*: the prepared model with the removed channels at zero, by masks on its own weights, against the cut model
  before any refit (which values stayed);
- *refit*: the dense twin, the refitted weights scattered into zeros of the original shapes, against the refitted model
  (the structure after values changed);
- *masks*, *factors*: weights that a pass set to zero, or put two products in place of, are as it declares, and nothing
  else changed; *masking*, *factoring*: the graph before, with the weights declared, against the model after;
- *rewriting*: a model before and after passes that change no value; behind a refit also *centring*, that the means of
  layer normalisations, which only a refit may make something of, changed nothing before it;
- *formats*: a model before and after its number formats changed: the structure, and the weights to half a step (see
  `hwpass.verdicts.formats`). The values of activations are other ones, which is for fidelity to judge: a chain with
  such a leg is proved in its structure, and its exactness is not judged.

The last model is run as the bytes that are written; `ReadBack` runs those of the file again before it gets its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from hwpass.cost_models.work import Floats
from hwpass.errors import InputError, VerdictError, option
from hwpass.figures import brief, counted
from hwpass.model.model import Model
from hwpass.planning.stages import Pruned, Stage
from hwpass.proto.interface import Interface
from hwpass.runtime.comparison import VARIATION, Difference, compare_outputs, tolerance_of
from hwpass.runtime.inputs import is_float
from hwpass.runtime.memory import release_memory
from hwpass.runtime.sessions import Feed, one_line, open_session, run_session
from hwpass.spans import span
from hwpass.surgery.declared import Masks
from hwpass.surgery.dense_twin import dense_twin
from hwpass.surgery.norm_forms import centred_like
from hwpass.verdicts.declared_weights import broken_factors, broken_masks, filled, with_products, with_weights_of
from hwpass.verdicts.exactness import Exactness, judge
from hwpass.verdicts.formats import OtherModel, same_but_for_formats
from hwpass.verdicts.legs import FORMATS, Leg, Proof
from hwpass.verdicts.masking import left_of, masked, removed_components
from hwpass.verdicts.proof_sides import AsGiven, InMemory, Side, nudged, nudged_feeds
from hwpass.verdicts.tensorwise import Reindex, depends, in_front, stepwise

Feeds = Sequence[Mapping[str, np.ndarray]]

#: A difference of so many times what rounding alone makes of an output is rounding, where every operator agrees.
AMPLIFIED = 30.0

#: Feeds on which tensors are compared one by one.
FEW = 2


@dataclass(frozen=True)
class ReadBack:
    """What the model in memory gave: a file that is about to get its name must give the same."""

    feed: Mapping[str, np.ndarray]
    outputs: Feed
    interface: Interface
    threads: int
    rtol: float | None

    def __repr__(self) -> str:
        return brief(self, f"{counted(len(self.outputs), 'output')} on {counted(len(self.feed), 'input')}")

    def __call__(self, path: Path) -> None:
        """Run a file from its own bytes. Raises VerdictError."""
        try:
            session = open_session(path, threads=self.threads, level="lean")
            interface = Interface.of(session)
            found = run_session(session, self.feed)
            del session
            release_memory()
        except InputError as error:
            raise VerdictError(f"the written file does not run, nothing was kept: {one_line(error)}") from None
        verdict = judge(compare_outputs([self.outputs], [found]), self.rtol, [])
        items = verdict.outputs.values()
        differs = any(item.problem or item.needed > tolerance_of(item.dtype, self.rtol) for item in items)
        if differs or interface != self.interface:
            reason = verdict.reason or self.interface.broken_by(interface) or "its interface is another"
            raise VerdictError(f"the written file is not the model that was proved, nothing was kept: {reason}")


@dataclass
class Prover:
    """Goes through the chain. `given` is the model as it was given, with its outputs on the feeds."""

    given: AsGiven
    feeds: list[Feed]
    rtol: float | None
    atol: float
    threads: int
    progress: Callable[[str], None] = lambda text: None
    moved: Mapping[str, Floats] = field(default_factory=dict)  # what was added to biases, by the layer's output
    warnings: list[str] = field(default_factory=list)

    @span("proof")
    def prove(self, loaded: Model, stages: Sequence[Stage], final: Side) -> Proof:
        """The legs from the given model to the last one, whose written bytes `final` runs.

        `loaded` is the model before any pass. `final` stands for the last stage.
        """
        legs: list[Leg] = []
        missing: list[str] = []
        chain = list(stages)
        if not chain or chain[0].effect != "exact":
            chain.insert(0, Stage("exact", (), loaded))
        sides: list[Side] = [InMemory(_named(stage), partial(_model, stage), self.threads) for stage in chain]
        sides[-1] = final
        if chain[-1].effect == "exact" and chain[-1].passes and len(chain) > 1:
            final.what += f" after {', '.join(chain[-1].passes)}"
        latest: Pruned | None = None
        for place, stage in enumerate(chain):
            latest = stage.pruned if stage.effect == "cut" and stage.pruned is not None else latest
            before = sides[place - 1] if place else self.given
            found = self._legs(chain, place, before, sides[place], latest)
            if isinstance(found, str):
                missing.append(found)
            else:
                legs += found
            legs += _still_masked(chain[: place + 1])
            if any(leg.state == "failed" for leg in legs):
                break
        legs += self._interface(final)
        tolerance = tolerance_of("float32", self.rtol)
        return Proof(tuple(legs), tuple(missing), tuple(self.warnings), tolerance)

    def _interface(self, final: Side) -> list[Leg]:
        """What callers of the model would notice, where there is anything."""
        if self.given.interface is None or final.interface is None:
            return []
        broken = self.given.interface.broken_by(final.interface)
        return [] if broken is None else [
            Leg("interface", f"{self.given.what} against {final.what}", "failed", note=broken)
        ]  # fmt: skip

    def _legs(
        self, chain: Sequence[Stage], place: int, before: Side, after: Side, latest: Pruned | None
    ) -> list[Leg] | str:
        """The legs between a stage and the one before; or why there is none. `latest` is the last removal by now."""
        stage = chain[place]
        if stage.effect == "cut" and stage.pruned is not None:
            few = any(later.effect == "refit" for later in chain[place + 1 :])
            return [self._removal(stage.pruned, stage.model, after, few=few)]
        if stage.declared is not None:
            return self._declared(chain[place - 1].model, stage, after)
        if stage.effect == "refit":
            if latest is None:
                return f"{_named(stage)}: its weights changed, and nothing before it was proved with them"
            return [self._refit(latest, stage.model, after)]
        if stage.effect == "format":
            return [self._formats(chain[place - 1].model, stage, before, after)]
        if stage.effect == "exact" and place == 0:
            renewed = partial(_unless_renewed, stage.model.renewed)
            return [self.compare("preparation", before, after, stage.model, renewed)]
        if stage.effect == "exact":
            refitted = any(earlier.effect == "refit" for earlier in chain[:place])
            cut = latest.surgery.model if refitted and latest is not None else None
            return self.rewritten(chain[place - 1].model, before, stage.model, after, cut)
        return f"what {', '.join(stage.passes)} did is not proved: it says nothing of what it keeps"

    def _removal(self, pruned: Pruned, cut: Model, after: Side, few: bool) -> Leg:
        coupling, plan = pruned.coupling, pruned.plan
        left = InMemory("the model with removed channels at zero", lambda: masked(coupling, plan), self.threads)
        reindex = partial(left_of, coupling, removed_components(coupling, plan))
        return self.compare("removal", left, after, cut, reindex, self.feeds[:FEW] if few else self.feeds)

    def _refit(self, pruned: Pruned, model: Model, after: Side) -> Leg:
        now = replace(pruned.surgery, model=model)
        left = InMemory("the dense twin", lambda: dense_twin(pruned.coupling, now), self.threads)
        removed = removed_components(pruned.coupling, pruned.plan)
        return self.compare("refit", left, after, model, partial(left_of, pruned.coupling, removed))

    def _declared(self, old: Model, stage: Stage, after: Side) -> list[Leg]:
        """Weights that are masked or factored: what is declared of them, and the graph before with such weights."""
        declared, model = stage.declared, stage.model
        if isinstance(declared, Masks):
            kind, name, problem = "masks", "masking", broken_masks(old, model, declared)
            places = declared.refitted | declared.by_place.keys()
            left = InMemory("the model with masked weights", partial(with_weights_of, old, model, places), self.threads)
        else:
            assert declared is not None
            kind, name, problem = "factors", "factoring", broken_factors(old, model, declared)
            left = InMemory("the model with the products", partial(with_products, old, model, declared), self.threads)
        sides = f"the {kind} that {', '.join(stage.passes)} declares against {after.what}"
        legs = [Leg(kind, sides, "passed" if problem is None else "failed", note=problem)]
        return legs if problem is not None else [*legs, self.compare(name, left, after, model, _same)]

    def _formats(self, old: Model, stage: Stage, before: Side, after: Side) -> Leg:
        """A model before and after its number formats changed: the structure; and that it runs and gives numbers."""
        leg = Leg(FORMATS, f"{before.what} against {after.what}", "failed")
        self.progress(f"proving {FORMATS}")
        try:
            changed = same_but_for_formats(old, stage.model, self.moved)
            outputs = after.outputs(self.feeds)
        except (OtherModel, InputError) as error:
            return replace(leg, note=str(error))
        for wanted, found in zip(before.outputs(self.feeds), outputs, strict=True):
            for name, value in wanted.items():
                if is_float(value.dtype) and np.isfinite(value).all() and not np.isfinite(found[name]).all():
                    return replace(leg, note=f"output {name!r} has NaN or infinity, and had none before")
        return replace(leg, state="passed", note=str(changed))

    def rewritten(self, old: Model, before: Side, new: Model, after: Side, cut: Model | None = None) -> list[Leg]:
        """A model before and after passes that change no value.

        Norms that the new model has with a mean are taken so after a refit, which need not keep their inputs centred:
        `cut`, the model before it, must show that their means change nothing.
        """
        changed = None if cut is None else centred_like(old, new)
        if cut is None or changed is None:
            return [self.compare("rewriting", before, after, new, _same)]
        legs = [self.centred(cut, new)]
        if legs[0].state == "passed":
            left = InMemory(before.what, lambda: changed, self.threads)
            legs.append(self.compare("rewriting", left, after, new, _same))
        return legs

    def centred(self, cut: Model, new: Model) -> Leg:
        """Whether norms of the cut model may subtract the means that those of another model do."""
        changed = centred_like(cut, new) or cut
        left = InMemory("the cut model", lambda: cut, self.threads)
        right = InMemory("the cut model with centred norms", lambda: changed, self.threads)
        return self.compare("centring", left, right, changed, _same, self.feeds[:FEW])

    def compare(
        self, name: str, left: Side, right: Side, candidate: Model, reindex: Reindex, feeds: Feeds | None = None,
        *, closely: bool = True,
    ) -> Leg:  # fmt: skip
        """One leg. `candidate` is the model of the right side, for a look at single tensors unless that is off."""
        feeds = self.feeds if feeds is None else feeds
        sides = f"{left.what} against {right.what}"
        self.progress(f"proving {sides}")
        wanted = left.outputs(feeds)
        try:
            given = right.outputs(feeds)
        except InputError as error:
            return Leg(name, sides, "failed", np.inf, np.inf, f"{right.what} does not run: {error}")
        verdict = judge(compare_outputs(wanted, given, atol=self.atol), self.rtol, [])
        wrong = [n for n, item in verdict.outputs.items() if item.problem or item.needed > self._limit(item)]
        silent = [n for n, item in verdict.outputs.items() if self._silent(item)]
        if not wrong and not silent and verdict.outputs:
            return Leg(name, sides, "passed", verdict.max_abs, verdict.max_rel)
        missing = next((verdict.outputs[n].problem for n in wrong if n not in given[0] or n not in wanted[0]), None)
        if missing is not None or not closely:
            return Leg(name, sides, "failed", np.inf, np.inf, verdict.reason)
        return self._closer(Leg(name, sides, "passed"), left, candidate, reindex, feeds, verdict, wrong, silent)

    def _limit(self, item: Difference) -> float:
        return tolerance_of(item.dtype, self.rtol)

    def _silent(self, item: Difference) -> bool:
        """Whether an output varied by less than ten times what it was allowed to differ by."""
        allowed = self._limit(item) + (self.atol / item.magnitude if item.magnitude else 0.0)
        return item.proves_nothing or item.spread <= VARIATION * allowed

    def _closer(
        self, leg: Leg, left: Side, candidate: Model, reindex: Reindex, feeds: Feeds, verdict: Exactness,
        wrong: list[str], silent: list[str],
    ) -> Leg:  # fmt: skip
        """Tensor by tensor, where outputs show nothing or amplify rounding."""
        self.progress(f"proving {leg.sides} tensor by tensor")
        few = sorted(feeds, key=lambda feed: sum(np.asarray(v).nbytes for v in feed.values()))[:FEW]
        try:
            steps = [stepwise(left, candidate, feed, reindex, self.threads, self.rtol) for feed in few]
        except InputError as error:
            note = f"{verdict.reason or 'outputs show nothing'}; on the tensors of {left.what}, {error}"
            return replace(leg, state="failed", max_abs=verdict.max_abs, max_rel=verdict.max_rel, note=note)
        worst = max(steps, key=lambda step: (step.problem is not None, step.excess))
        if worst.problem is not None or worst.excess > 1:
            return replace(
                leg, state="failed", max_abs=worst.max_abs, max_rel=worst.max_rel,
                note=f"{verdict.reason or 'tensors differ'}; first different tensor: {worst.where}",
            )  # fmt: skip
        leg = replace(leg, max_abs=worst.max_abs, max_rel=worst.max_rel)
        varying = set[str]().union(*(step.varying for step in steps))
        made = [tensor.name for tensor in candidate.graph.outputs]
        homes = {name: next((m for m in made if name.startswith(f"{m}[")), name) for name in silent}
        # An output that no input reaches is a constant of the model: that it is equal is all there is to show.
        blind = [
            name for name, home in homes.items()
            if not in_front(candidate, home, varying) and (name in wrong or depends(candidate, home))
        ]  # fmt: skip
        if blind:
            note = f"output {blind[0]!r} and all that was seen in front of it are the same for every input tried"
            return replace(leg, state="not judged", note=f"{note}; give real inputs with {option('calib')}")
        if wrong and not self._amplified(candidate, feeds, verdict, wrong):
            return replace(leg, state="failed", max_abs=verdict.max_abs, max_rel=verdict.max_rel, note=verdict.reason)
        count = len(set[str]().union(*(step.compared for step in steps)))
        why = f"outputs of {leg.sides} differ by {verdict.would_pass:.1g}, because the model amplifies rounding"
        if any(verdict.outputs[n].problem for n in wrong):
            why = f"outputs of {leg.sides} differ where rounding decides"
        if not wrong:
            why = f"output {silent[0]!r} hardly varies with the inputs and shows nothing"
        self.warnings.append(f"{why}; exactness was shown for each of {count} tensors by itself, on equal inputs")
        return leg

    def _amplified(self, model: Model, feeds: Feeds, verdict: Exactness, wrong: list[str]) -> bool:
        """Whether rounding alone makes differences like these: of the model's own weights and inputs, a step or two."""
        at_rest = InMemory("", lambda: model, self.threads).outputs(feeds)
        found: dict[str, list[Difference]] = {name: [] for name in wrong}
        for seed in range(3):
            moved = InMemory("", partial(nudged, model, seed), self.threads)
            there = moved.outputs(nudged_feeds(feeds, seed))
            for name, item in compare_outputs(at_rest, there).items():
                if name in found:
                    found[name].append(item)
        return all(
            any(_explains(item, verdict.outputs[name]) for item in items) if items else False
            for name, items in found.items()
        )


def _still_masked(chain: Sequence[Stage]) -> list[Leg]:
    """Whether the last model fills masks of an earlier one, from which only passes lie between that keep all places."""
    for place in range(len(chain) - 2, -1, -1):
        if chain[place + 1].effect not in ("exact", "refit", "mask"):
            break
        masks = chain[place].declared
        problem = filled(chain[-1].model, masks) if isinstance(masks, Masks) else None
        if problem is not None:
            last = chain[-1]
            sides = f"the masks that {', '.join(chain[place].passes)} declares against {_named(last)}"
            return [Leg("masks", sides, "failed", note=problem)]
    return []


def _explains(rounding: Difference, seen: Difference) -> bool:
    if seen.problem is None:
        return rounding.problem is not None or seen.needed <= AMPLIFIED * rounding.needed
    return rounding.problem is not None and seen.unequal <= AMPLIFIED * max(rounding.unequal, 1e-9)


def _unless_renewed(renewed: frozenset[str], name: str, value: np.ndarray) -> np.ndarray | None:
    """A tensor of the given model, unless a pass made another of that name; what reads it is compared all the same."""
    return None if name in renewed else value


def _same(name: str, value: np.ndarray) -> np.ndarray:
    return value


def _model(stage: Stage) -> Model:
    return stage.model


def _named(stage: Stage) -> str:
    """What a model of the chain is called."""
    if stage.effect == "cut":
        return "the cut model"
    if stage.effect == "refit":
        return "the refitted model"
    return f"the model after {', '.join(stage.passes)}" if stage.passes else "the model as it was loaded"
