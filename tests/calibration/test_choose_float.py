"""Sites that make much of the noise for little of the work stay float, and no others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from aigc_calibration import choose_float
from aigc_calibration.calibrate import calibrate
from aigc_calibration.calibrated_plan import with_choice
from aigc_calibration.choose_float import MUCH_FOR_LITTLE, in_rounds, proven_sites, worthy_sites
from aigc_calibration.choose_ranges import CANDIDATES
from aigc_calibration.config import QuantConfig
from aigc_calibration.float_order import FloatOrder
from aigc_calibration.formats import SIGNED_FORMAT
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.plan import QuantizationPlan, SitePrecision
from aigc_calibration.prepare import prepare
from aigc_calibration.quantize import Quantized, quantize
from aigc_runtime.errors import CancelledError, ConfigError, EngineError

from .conftest import Batches, Shape, make_graph

WIDTH, NARROW, ROWS, LAYERS = 64, 4, 16, 6
CONFIG = QuantConfig(ranges="minmax")


def network(*, loud: bool) -> tuple[ir.Model, Batches]:
    """A chain of wide products, and beside it a small one whose result is added.

    What the small one reads holds, where it is loud, a number 3000 times as large, which its weight leaves out.
    """
    rng = np.random.default_rng(0)
    nodes, constants = [], {}
    for i in range(LAYERS):
        constants[f"W{i}"] = (rng.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5).astype(np.float32)
        nodes.append(helper.make_node("MatMul", [f"h{i}" if i else "x", f"W{i}"], [f"y{i}"], f"layer_{i}"))
        nodes.append(helper.make_node("Tanh", [f"y{i}"], [f"h{i + 1}"], f"tanh_{i}"))
    constants["V"] = (0.01 * rng.standard_normal((NARROW, WIDTH))).astype(np.float32)
    constants["V"][0] *= not loud
    constants["one"] = np.eye(1, NARROW, dtype=np.float32)[0] * (3000 if loud else 0)
    nodes += [
        helper.make_node("Add", ["t", "one"], ["u"], "plus"),
        helper.make_node("MatMul", ["u", "V"], ["v"], "small"),
        helper.make_node("Add", [f"h{LAYERS}", "v"], ["out"], "sum"),
    ]
    wide: Shape = ["n", ROWS, WIDTH]
    model = make_graph(nodes, constants, {"x": wide, "t": ["n", ROWS, NARROW]}, {"out": wide})
    feeds = tuple(
        {
            "x": rng.standard_normal((1, ROWS, WIDTH)).astype(np.float32),
            "t": rng.standard_normal((1, ROWS, NARROW)).astype(np.float32),
        }
        for _ in range(24)
    )
    return model, Batches(feeds)


def floats(found: Quantized) -> dict[str, str]:
    return {op.node: op.why for op in found.plan.ops if op.precision == "float"}


def noise(model: ir.Model, found: Quantized, data: Batches) -> float:
    exact, run = open_onnx(model), open_onnx(found.graph)
    x, y = (np.concatenate([f(feeds)["out"] for feeds in data.feeds]).astype(np.float64) for f in (exact, run))
    return float(np.square(x - y).sum() / np.square(x).sum())


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_a_small_site_that_does_most_of_the_harm_stays_float(precision: SitePrecision) -> None:
    model, data = network(loud=True)
    form = {} if precision == "int8" else {"form": SIGNED_FORMAT, "executed": lambda *_: None}
    found, all_low = (
        quantize(model, data, replace(CONFIG, float_share=share), precision=precision, **form)  # type: ignore[arg-type]
        for share in (0.1, 0.0)
    )
    assert floats(all_low) == {}
    assert not any("stays float" in note for note in all_low.plan.notes)
    if precision == "fp8":  # which has as many digits for small numbers as for large ones: nothing stands out
        assert floats(found) == {}
        return
    assert floats(found) == {"small": MUCH_FOR_LITTLE}
    assert "V" not in found.weights
    assert found.plan.notes[-1].startswith("1 site stays float by its effect on the outputs, ")
    assert "1.0% of the work: small (" in found.plan.notes[-1]
    assert noise(model, found, data) < 0.2 * noise(model, all_low, data)


def test_where_no_site_stands_out_all_stay_low() -> None:
    model, data = network(loud=False)
    assert floats(quantize(model, data, CONFIG, precision="int8")) == {}


def test_a_share_that_the_site_does_not_fit_into() -> None:
    model, data = network(loud=True)
    assert floats(quantize(model, data, replace(CONFIG, float_share=0.005), precision="int8")) == {}


def test_where_nothing_else_would_run_in_few_bits_no_site_is_float_by_choice() -> None:
    model, data = network(loud=True)

    def executed(_: ir.Model, plan: QuantizationPlan) -> set[str]:
        low = {op.node for op in plan.quantized()}
        return low if "small" in low else set()

    found = quantize(model, data, CONFIG, precision="int8", executed=executed)
    assert floats(found) == {}
    assert len(found.plan.quantized()) == LAYERS + 1


CHOICES = ("methods of ranges", "order of sites", "choice of ranges")


def test_ranges_are_chosen_one_by_one_when_it_is_known_what_stays_float() -> None:
    """Before, one method for all is chosen, in a run for each; of few rows nothing is chosen, and it is not needed."""
    model, data = network(loud=True)
    few = Batches(data.feeds[:20])
    for samples, phases in ((data, ["methods of ranges", "order of sites"]), (few, [])):
        told: list[tuple[str, int]] = []

        def note(what: str, _: int, total: int, told: list[tuple[str, int]] = told) -> None:
            told.append((what, total))

        found = quantize(model, samples, replace(CONFIG, ranges="auto"), precision="int8", progress=note)
        known = [what for what in dict.fromkeys(what for what, _ in told) if what.split(",")[0] in CHOICES]
        assert known[: len(phases)] == phases
        assert known[-1] == "choice of ranges"
        totals = {total for what, total in told if what == "methods of ranges"}
        assert totals == ({len(CANDIDATES)} if phases else set())
        assert told[-1][1] > len(CANDIDATES)
        assert "runs)" in found.plan.notes[0]
        assert floats(found) == ({"small": MUCH_FOR_LITTLE} if phases else {})


def test_a_calibration_keeps_the_choice() -> None:
    model, data = network(loud=True)
    found = calibrate(prepare(model), data, CONFIG, precision="int8")
    assert found.float_sites is None
    fresh = quantize(model, data, CONFIG, precision="int8", calibration=found)
    kept = with_choice(found, fresh.plan, fresh.weights)
    assert kept.float_sites == ("small",)
    # One batch is left: nothing can be chosen on it.
    again = quantize(model, Batches(data.feeds[:1]), CONFIG, precision="int8", calibration=kept)
    assert again.plan.dump() == fresh.plan.dump()
    none = quantize(
        model,
        Batches(data.feeds[:1]),
        CONFIG,
        precision="int8",
        calibration=replace(kept, float_sites=(), float_choice=""),
    )
    assert floats(none) == {}


def test_a_choice_can_be_stopped() -> None:
    model, data = network(loud=True)
    with pytest.raises(CancelledError):
        quantize(model, data, CONFIG, precision="int8", progress=lambda what, *_: "order" not in what)


def order(high: tuple[str, ...] = (), /, **sites: tuple[float, int]) -> FloatOrder:
    """An order of sites whose noise adds up, each of (noise, work)."""
    left = {name: site for name, site in sites.items() if name not in high}
    return FloatOrder(
        nodes=tuple(sorted(left, key=lambda name: -left[name][0] / (left[name][1] / 100 + 1 / len(sites)))),
        noise={name: noise for name, (noise, _) in left.items()},
        work={name: work for name, (_, work) in sites.items()},
        without=lambda more: sum(noise for name, (noise, _) in left.items() if name not in more),
        again=lambda more: order((*high, *more), **sites),
    )


def test_what_is_worthy_is_held_against_what_is_left() -> None:
    """b makes a sixth of all noise, but most of what a leaves."""
    found = order(a=(80.0, 1), b=(15.0, 4), c=(5.0, 95))
    assert worthy_sites(found, 0.1) == ("a", "b")
    assert worthy_sites(found, 0.02) == ("a",)
    assert worthy_sites(order(a=(0.0, 1), b=(0.0, 99)), 0.5) == ()
    assert worthy_sites(order(a=(34.0, 1), b=(33.0, 49), c=(33.0, 50)), 0.9) == ("a",)


def test_a_small_share_goes_to_what_gains_most_for_its_cost() -> None:
    found = order(large=(50.0, 20), small=(30.0, 4), rest=(20.0, 76))
    assert found.nodes[0] == "large"
    assert worthy_sites(found, 0.2) == ("small",)
    assert worthy_sites(found, 0.25) == ("small", "large")


def test_sites_whose_noise_does_not_add_up_are_taken_by_halves() -> None:
    """a and b round the same value: the noise is there until neither does."""
    found = order(a=(30.0, 1), b=(30.0, 1), c=(20.0, 1), d=(20.0, 97))
    assert proven_sites(found, ("a", "b", "c")) == ("a", "b", "c")

    def shared(high: tuple[str, ...]) -> float:
        return 100.0 - 60 * ({"a", "b"} <= set(high)) - 30 * ("d" in high)

    assert proven_sites(replace(found, without=shared), ("a", "b")) == ("a", "b")
    assert proven_sites(replace(found, without=shared), ("a", "c", "b")) == ("a", "c", "b")
    assert proven_sites(replace(found, without=shared), ("a", "c")) == ()
    assert proven_sites(replace(found, without=lambda high: 100.0 - 50 * (high == ("a",))), ("a", "b", "c")) == ("a",)
    assert proven_sites(replace(found, without=lambda _: 100.0), ("a", "b", "c")) == ()
    assert proven_sites(found, ()) == ()


def test_one_site_is_held_to_the_rate_of_its_choice_and_several_to_more() -> None:
    """Each costs 4.3 %: a hundredth of the work, and a third of a tenth."""
    found = order(a=(30.0, 1), b=(30.0, 1), c=(40.0, 98))

    def taking(each: float) -> FloatOrder:
        return replace(found, without=lambda high: 100.0 - each * len(high))

    assert proven_sites(taking(8.0), ("a",)) == ()
    assert proven_sites(taking(9.0), ("a",)) == ("a",)
    assert proven_sites(taking(12.0), ("a", "b")) == ("a",)
    assert proven_sites(taking(14.0), ("a", "b")) == ("a", "b")


def test_what_was_hidden_behind_loud_sites_is_found_when_they_are_gone() -> None:
    """Of the first measurement, c seems to make no more than d: what both make together is halved."""
    true = {"a": (9000.0, 1), "c": (90.0, 5), "d": (10.0, 94)}
    rough = replace(order(**true), noise={"a": 9000.0, "c": 8.0, "d": 92.0})
    assert worthy_sites(rough, 0.2) == ("a",)
    assert in_rounds(rough, 0.2) == {"a": 9000.0, "c": 90.0}
    never = replace(rough, again=lambda _: pytest.fail("the sites are measured again"))
    assert in_rounds(never, 0.05) == {"a": 9000.0}  # there is no room for c beside a
    small = order(a=(9000.0, 191), b=(1.0, 5), d=(100.0, 804))
    again = replace(small, again=lambda _: pytest.fail("the sites are measured again"))
    assert in_rounds(again, 0.2) == {"a": 9000.0}  # b could be taken, of a twentieth of the share that is left


def test_a_round_that_takes_little_is_the_last() -> None:
    found = order(a=(40.0, 1), b=(60.0, 99))
    never = replace(found, again=lambda _: pytest.fail("the sites are measured again"))
    assert in_rounds(never, 0.2) == {"a": 40.0}


def test_one_site_is_left_whatever_it_does() -> None:
    assert worthy_sites(order(a=(99.0, 0), b=(1.0, 0)), 0.9) == ("a",)


def test_noise_without_end_chooses_nothing() -> None:
    assert worthy_sites(order(a=(float("inf"), 1), b=(1.0, 99)), 0.9) == ()


def test_a_graph_that_takes_no_switches_keeps_its_plan(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise EngineError("it does not load")

    monkeypatch.setattr(choose_float, "order_sites", fails)
    model, data = network(loud=True)
    assert floats(quantize(model, data, CONFIG, precision="int8")) == {}
    assert "which sites stay float was not measured: it does not load" in caplog.text


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_shares_that_there_are_not(share: float) -> None:
    with pytest.raises(ConfigError, match="float_share is"):
        QuantConfig(float_share=share)


def test_few_rows_of_samples_choose_nothing() -> None:
    model, data = network(loud=True)
    assert floats(quantize(model, Batches(data.feeds[:23]), CONFIG, precision="int8")) == {}
    assert floats(quantize(model, Batches(data.feeds[:24]), CONFIG, precision="int8"))
