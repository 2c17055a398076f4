"""The toggle graph is every mix: switched off it is the float graph, switched on what the emitter makes of the mix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from aigc_calibration.calibrate import calibrate
from aigc_calibration.calibrated_plan import plan_calibrated
from aigc_calibration.config import QuantConfig
from aigc_calibration.emit import emit
from aigc_calibration.errors import CalibrationError
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.planner import round_weights
from aigc_calibration.prepare import prepare
from aigc_calibration.search.kinds import site_kinds
from aigc_calibration.search.pair import PrecisionPair
from aigc_calibration.search.probe import Probe, make_probe, measure_noise
from aigc_calibration.search.toggle import SWITCH
from aigc_calibration.weight_only import quantize_weights, weight_plan

from ..conftest import Batches, make_graph, small_network
from ..formats import FORMATS


def int8_pair(form: str = "ort-cpu", seed: int = 0) -> tuple[PrecisionPair, Batches]:
    model, data = small_network(seed)
    ready, config = prepare(model), QuantConfig()
    calibration = calibrate(ready, data, config, precision="int8")
    graph, plan = plan_calibrated(ready, calibration, config, precision="int8", form=FORMATS[form])
    weights = round_weights(graph, plan)
    pair = PrecisionPair(
        name="int8 / float",
        graph=graph,
        low=plan,
        low_weights=weights,
        high=None,
        high_weights={},
        form=FORMATS[form],
    )
    return pair, data


def weight_pair() -> tuple[PrecisionPair, Batches]:
    model, data = small_network()
    ready, config = prepare(model), QuantConfig()
    plans = [weight_plan(ready, config, precision=p) for p in ("int4-weight", "int8-weight")]
    codes = [quantize_weights(ready, plan, data, config) for plan in plans]
    return (
        PrecisionPair(
            name="int4 / int8",
            graph=ready,
            low=plans[0],
            low_weights=codes[0],
            high=plans[1],
            high_weights=codes[1],
            form=FORMATS["tensorrt"],  # the form without operators of its own: ORT's MatMulNBits rounds activations too
        ),
        data,
    )


def probe_of(pair: PrecisionPair, data: Batches) -> Probe:
    return make_probe(pair.toggled(), [op.node for op in pair.low.quantized()], data.feeds[:2], ["y"])


def emitted_noise(pair: PrecisionPair, data: Batches, low: set[str]) -> float:
    """Independent of the toggle graph: the mix is emitted, and its reference is the exact high-precision graph."""
    kept_high = {op.node: "kept high" for op in pair.low.quantized() if op.node not in low}
    everything = {op.node: "kept high" for op in pair.low.quantized()}
    outputs = []
    for names in (kept_high, everything):
        plan, weights = pair.mix(names)
        run = open_onnx(emit(pair.graph, plan, weights, pair.form), optimize=False)
        outputs.append([run(f)["y"].astype(np.float64) for f in data.feeds[:2]])
    noise = sum(float(((a - b) ** 2).sum()) for a, b in zip(*outputs, strict=True))
    return noise / sum(float((b**2).sum()) for b in outputs[1])


@dataclass(frozen=True)
class Case:
    pair: PrecisionPair
    data: Batches


@pytest.fixture(params=["int8-ort", "int8-tensorrt", "weights"])
def case(request: pytest.FixtureRequest) -> Case:
    made = {
        "int8-ort": lambda: int8_pair("ort-cpu"),
        "int8-tensorrt": lambda: int8_pair("tensorrt"),
        "weights": weight_pair,
    }[request.param]()
    return Case(*made)


def test_every_mix_is_the_emitted_graph(case: Case) -> None:
    probe = probe_of(case.pair, case.data)
    rng = np.random.default_rng(0)
    nodes = list(probe.nodes)
    mixes = [set(), set(nodes)] + [set(rng.permutation(nodes)[: rng.integers(1, len(nodes))]) for _ in range(4)]
    for low in mixes:
        expected = emitted_noise(case.pair, case.data, low)
        assert measure_noise(probe, low) == pytest.approx(expected, rel=2e-3, abs=1e-12)
    assert measure_noise(probe, set()) == 0.0
    assert measure_noise(probe, nodes) > 1e-7


def test_switched_off_it_is_the_float_graph() -> None:
    pair, data = int8_pair()
    model = pair.toggled()
    switches = {str(v.name): np.array(False) for v in model.graph.inputs if str(v.name).startswith(SWITCH)}
    assert len(switches) == len(pair.low.quantized()) >= 3
    run, exact = open_onnx(model, optimize=False), open_onnx(pair.graph, optimize=False)
    np.testing.assert_array_equal(run({**data.feeds[0], **switches})["y"], exact(data.feeds[0])["y"])


def test_codes_are_dequantized_only_where_a_switch_is_on(case: Case) -> None:
    model = case.pair.toggled()
    switched = {node.name: node for node in model.graph if node.op_type == "If"}
    assert switched.keys() == {op.node for op in case.pair.low.quantized() if op.weight is not None}
    codes = [node.inputs[0] for node in model.graph if node.op_type == "DequantizeLinear"]
    weights = {op.weight for op in case.pair.low.quantized()}
    assert not any(f"{weight}_quantized" in {str(value.name) for value in codes if value} for weight in weights)
    for node in switched.values():
        low, high = (list(node.attributes[f"{branch}_branch"].as_graph()) for branch in ("then", "else"))
        assert low[-1].op_type == high[0].op_type
        assert [made.op_type for made in low].count("DequantizeLinear") == 1
        assert len(high) == 1


def test_the_noise_of_sites_adds_up_to_three_decibels() -> None:
    pair, data = int8_pair()
    probe = probe_of(pair, data)
    alone = sum(measure_noise(probe, [node]) for node in probe.nodes)
    assert 0.5 < alone / measure_noise(probe, probe.nodes) < 2.0  # five sites; over many it is nearer


def test_a_probe_says_what_it_was_made_of() -> None:
    pair, data = int8_pair()
    probe = probe_of(pair, data)
    assert probe.digest == probe_of(pair, data).digest
    assert probe.digest != probe_of(*int8_pair(seed=1)).digest
    assert make_probe(pair.toggled(), probe.nodes, data.feeds[2:3], ["y"]).digest != probe.digest
    with pytest.raises(KeyError, match="nothing"):
        measure_noise(probe, ["nothing"])


def test_an_output_of_zeros_tells_no_noise() -> None:
    pair, data = int8_pair()
    zeros = [{"x": np.zeros_like(data.feeds[0]["x"])}]
    model = make_graph([], {}, {"x": ["n"]}, {"x": ["n"]})
    with pytest.raises(CalibrationError, match="zero or not finite"):
        make_probe(model, [], [{"x": np.zeros(3, np.float32)}], ["x"])
    assert make_probe(pair.toggled(), [op.node for op in pair.low.quantized()], zeros, ["y"]).reference  # biases


def test_a_mix_takes_each_site_from_its_precision() -> None:
    pair, _ = weight_pair()
    up = next(op for op in pair.low.quantized() if op.op_type == "MatMul")
    plan, weights = pair.mix({up.node: "it must"})
    by_node = {op.node: op for op in plan.ops}
    assert by_node[up.node].precision == "int8-weight"
    assert by_node[up.node].why == "it must"
    assert weights[str(up.weight)].grid.name == "int8"
    others = [op for op in plan.quantized() if op.node != up.node]
    assert others
    assert {op.precision for op in others} == {"int4-weight"}
    assert {weights[str(op.weight)].grid.name for op in others} == {"int4"}


def test_kinds_are_sites_of_one_size() -> None:
    pair, data = int8_pair()
    kinds = site_kinds(pair, data.feeds[0])
    assert sorted(n for nodes in kinds.values() for n in nodes) == sorted(op.node for op in pair.low.quantized())
    assert all(len(nodes) == 1 for nodes in kinds.values())  # no two sites of this network are alike
    assert any("Conv" in kind and "[8, 2, 4, 4]" in kind for kind in kinds)
