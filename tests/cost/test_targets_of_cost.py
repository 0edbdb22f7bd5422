"""What a target says besides rates: formats, a host for what it cannot run, what memory is taken, hard limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sketch import Sketch

import hwpass
from hwpass.cost.prediction import Cost
from hwpass.cost_models import Target, load_target, parse_target, target_names
from hwpass.coupling.groups import Coupling, couple
from hwpass.errors import BudgetError, InputError, UsageError
from hwpass.model.model import Model
from hwpass.workflows.profile import profile_model

CNN = Path(__file__).parents[2] / "fixtures/cnn.onnx"


def net() -> Sketch:
    """conv, softmax along channels, conv."""
    s = Sketch()
    h = s.op("Softmax", s.conv(s.input(["N", 3, 8, 8]), 20, 3, 3), axis=1)
    s.output(s.conv(h, 4, 20))
    return s


def coupling() -> Coupling:
    return couple(Model.load(net().model()))


def changed(text: str, sources: str = "") -> Target:
    head = 'name = "odd"\ndescription = "odd"\nextends = "server-cpu"\n'
    return parse_target(f"{head}{text}\n[sources]\n{sources}")


def test_a_host_runs_what_the_target_cannot() -> None:
    text = '[fallback]\nhost = "mobile-cpu"\nlacks = ["Softmax"]\ncrossing_us = 100\ncrossing_gbs = 1'
    target = changed(text, 'fallback = "test"')
    plain, odd, host = (Cost(coupling(), t) for t in (load_target("server-cpu"), target, load_target("mobile-cpu")))
    work = odd.work(odd.dense)
    assert odd.model.away.tolist() == [False, True, False]
    found, alone, there = (cost.model.latency(work)[0] for cost in (odd, plain, host))
    moved = 20 * 8 * 8 * 4
    # The first convolution hands over to the host, and the host hands back.
    assert found[0] == alone[0]
    assert found[1] == pytest.approx(there[1] + 100e-6 + moved / 1e9)
    assert found[2] == pytest.approx(alone[2] + 100e-6 + moved / 1e9)
    assert any("Softmax" in note and "mobile-cpu" in note for note in odd.notes())
    assert not plain.notes()


def test_all_behind_the_first_may_go_to_the_host() -> None:
    text = '[fallback]\nhost = "mobile-cpu"\nruns = ["Conv"]\nrest = true'
    cost = Cost(coupling(), changed(text, 'fallback = "test"'))
    assert cost.model.away.tolist() == [False, True, True]


def test_a_host_that_hands_on_is_refused(tmp_path: Path) -> None:
    text = '[fallback]\nhost = "NAME"\nlacks = ["Softmax"]'
    first = tmp_path / "first.toml"
    first.write_text(
        f'name = "first"\ndescription = "x"\nextends = "server-cpu"\n{text}\n'.replace("NAME", "mobile-cpu")
    )
    target = changed(text.replace("NAME", str(first)))
    with pytest.raises(InputError, match="first hands work on itself"):
        Cost(coupling(), target)


def test_threads_that_change_nothing_are_said() -> None:
    for name, threaded in (("server-cpu", False), ("mobile-cpu", True)):
        one, four = (Cost(coupling(), load_target(name).variant(threads=n)) for n in (1, 4))
        assert (four.base["latency"] != one.base["latency"]) == threaded
        assert any("one thread" in note for note in four.notes()) != threaded
        assert not any("thread" in note for note in one.notes())


def test_bytes_follow_the_format() -> None:
    own, half = (Cost(coupling(), load_target("mobile-cpu").variant(d)) for d in (None, "fp16"))
    a, b = own.work(own.dense), half.work(half.dense)
    assert np.array_equal(a.read, 2 * b.read)
    assert np.array_equal(a.weights, 2 * b.weights)
    assert (b.itemsize == 2).all()
    assert own.base["size"] == half.base["size"]  # the file's
    assert own.base["memory"] == 2 * half.base["memory"]


def test_a_target_without_the_format_prices_the_next_narrower() -> None:
    target = changed("[peak]\nfp32 = 1", 'peak = "test"')
    narrow = target.model_copy(update={"peak": {"int8": 1.0}})
    cost = Cost(coupling(), narrow)
    assert (cost.work(cost.dense).itemsize == 1).all()
    assert any("priced in int8" in note for note in cost.notes())


def test_the_footprint_rounds_and_adds() -> None:
    text = '[footprint]\nchannel_align = 16\nalign_bytes = 8192\nram_bytes = 1000\nflash_bytes = 50\nweights = "flash"'
    cost = Cost(coupling(), changed(text, 'footprint = "test"'))
    # The widest moment is the softmax: 20 channels of 8 x 8 in and out, each stored as 32.
    assert cost.base["ram"] == 1000 + 2 * (32 * 64 * 4)
    assert cost.base["flash"] == cost.base["size"] + 50


def chain() -> Coupling:
    """Convolutions to 6, 20, 6 channels over 3 x 4 x 4, then the first and the last joined, and one more to 2."""
    s = Sketch()
    stem = s.conv(s.input([1, 3, 4, 4]), 6, 3)
    s.output(s.conv(s.op("Concat", stem, s.conv(s.conv(stem, 20, 6), 6, 20), axis=1), 2, 12))
    return couple(Model.load(s.model()))


def test_an_output_may_take_the_place_of_an_input_that_dies() -> None:
    apart = Cost(chain(), load_target("server-cpu"))
    over = Cost(chain(), changed('[footprint]\nin_place = ["conv"]'))
    held = [cost.kernels.live.held(cost.kernels.values(cost.kernels.dense[None, :]))[0] / 64 for cost in (apart, over)]
    # In channels of 64 bytes. Of two that meet in a convolution the larger stays, unless the input has another reader.
    assert held[0].tolist() == [3 + 6, 6 + 20, 6 + 20 + 6, 6 + 6 + 12, 12 + 2]
    assert held[1].tolist() == [6, 6 + 20, 6 + 20, 6 + 6 + 12, 12]
    assert over.base["ram"] == apart.base["ram"] - 6 * 64


def test_a_runtime_takes_memory_for_every_kernel() -> None:
    text = "[footprint]\nram_bytes = 100\nkernel_ram_bytes = 10\nflash_bytes = 5\nkernel_flash_bytes = 1"
    cost = Cost(chain(), changed(text, 'footprint = "test"'))
    plain = Cost(chain(), load_target("server-cpu"))
    assert len(cost.kernels.kernels) == 5
    assert cost.base["ram"] == plain.base["ram"] + 100 + 5 * 10
    assert cost.base["flash"] == plain.base["flash"] + 5 + 5 * 1
    assert cost.base["memory"] == plain.base["memory"] + 150


def test_limits_are_met_without_being_asked_for(tmp_path: Path) -> None:
    base = hwpass.run(CNN, "mobile-cpu", macs=0.9, score="l2", compensate="off").report.before
    target = tmp_path / "small.toml"
    bound = round(0.6 * base.size_bytes)
    target.write_text(
        f'name = "small"\ndescription = "x"\nextends = "mobile-cpu"\n[limits]\nflash_bytes = {bound}\n'
        '[sources]\nlimits = "test"\n'
    )
    result = hwpass.run(CNN, target, score="l2", compensate="off")
    assert result.report.after.size_bytes <= bound
    assert any("does not fit" in line and "flash that small has" in line for line in result.report.warnings)
    assert any("does not fit" in note for note in profile_model(CNN, target).notes)


def test_a_limit_that_cannot_be_met_is_said(tmp_path: Path) -> None:
    target = tmp_path / "tiny.toml"
    target.write_text(
        'name = "tiny"\ndescription = "x"\nextends = "mobile-cpu"\n[limits]\nram_bytes = 64\n'
        '[sources]\nlimits = "test"\n'
    )
    with pytest.raises(BudgetError, match="the 64 B of RAM that tiny has cannot be met"):
        hwpass.run(CNN, target, score="l2", compensate="off")


def test_costs_are_those_of_the_largest_size() -> None:
    model = net().model()
    one, many = (profile_model(Model.load(model), "server-cpu", dim=d) for d in ((), ("N=1..8",)))
    assert many.macs == 8 * one.macs
    assert many.latency_at_least_ms == pytest.approx(one.latency_ms)
    with pytest.raises(UsageError, match="no dynamic axis of that name; it has N"):
        profile_model(Model.load(model), "server-cpu", dim="M=3")
    for wrong in ("N", "N=0", "N=3..2", "N=x"):
        with pytest.raises(UsageError):
            profile_model(Model.load(model), "server-cpu", dim=wrong)


@pytest.mark.parametrize("name", target_names())
def test_a_model_costs_what_its_kernels_cost(name: str) -> None:
    """With views, branches and an input that several kernels read, at some widths too."""
    coupling = couple(Model.load(CNN.parent / "vit.onnx"))
    cost = Cost(coupling, load_target(name))
    plans = np.stack([cost.dense, np.maximum(cost.dense - 3, 1)])
    found = cost(plans, ("latency", "energy"))
    for place, plan in enumerate(plans):
        work = cost.work(plan)
        assert found["latency"][place] == pytest.approx(float(cost.model.latency(work).sum()), rel=1e-9)
        assert found["energy"][place] == pytest.approx(float(cost.model.energy(work).sum()), rel=1e-9)
    low, high = cost.interval(cost.dense) or (0.0, np.inf)
    assert low <= cost.base["latency"] <= high


def test_a_run_is_priced_in_the_format_and_at_the_sizes_that_are_asked_for() -> None:
    s = Sketch()
    s.output(s.conv(s.op("Relu", s.conv(s.input(["N", 3, 8, 8]), 64, 3, 3)), 4, 64))
    model = s.model()

    def before(**more: Any) -> Any:
        asked = {"macs": 0.8, "score": "l2", "compensate": "off", "force": True, **more}
        return hwpass.run(model, "mobile-cpu", **asked).report.before

    plain, half, many = before(), before(dtype="fp16"), before(dim="N=1..8")
    assert half.peak_memory_bytes == plain.peak_memory_bytes / 2
    assert half.latency_ms < plain.latency_ms
    assert many.macs == 8 * plain.macs


def test_an_interval_holds_the_prediction_and_grows_with_doubt() -> None:
    sure, unsure = (changed(f"[uncertainty]\nconv = {u}\nnetwork = 0.05", 'uncertainty = "test"') for u in (0.1, 0.5))
    widths = []
    for target in (sure, unsure):
        cost = Cost(coupling(), target)
        found = cost.interval(cost.dense)
        assert found is not None
        assert found[0] < cost.base["latency"] < found[1]
        widths.append(found[1] / found[0])
    assert widths[0] < widths[1]
    plain = Cost(coupling(), load_target("server-cpu"))
    assert plain.interval(plain.dense) is None or load_target("server-cpu").uncertainty
