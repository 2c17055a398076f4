"""The ratio of signal to noise of any module, against numbers that are known."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import nn

from aigc_export.workloads import get_workload
from aigc_export.workloads.evaluate import make_evaluator, program_evaluation
from aigc_export.workloads.evaluators import tensors
from aigc_export.workloads.evaluators.tensors import pooled_sqnr
from aigc_models.evaluation.paired import Evaluator
from aigc_models.program import Program
from aigc_models.sources.module import make_program
from aigc_models.torch_session import TorchSession
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.tensors import Array, StateSpec
from aigc_runtime.errors import ConfigError


class Two(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"double": 2 * x, "square": x * x}


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    return make_program(Two().eval(), example_inputs={"x": torch.randn(3, 50)}, dims={"x": {0: "batch"}})


def evaluator(program: Program, *, samples: int = 20, seed: int = 0) -> Evaluator:
    workload, evaluation = get_workload(program.kind), program_evaluation(program)
    return make_evaluator(
        workload,
        TorchSession(program.part),
        program.settings,
        evaluation=evaluation,
        samples=samples,
        seed=seed,
        roles=program.engines,
    )


def noisy(program: Program, scale: float, *, output: str = "double", seed: int = 0) -> ArraySession:
    """Adds noise of a known size to one output, relative to its root mean square."""
    call, rng = TorchSession(program.part).call, np.random.default_rng(seed)

    def run(feeds: dict[str, Array]) -> dict[str, Array]:
        out = dict(call(feeds))
        rms = math.sqrt(float((out[output] ** 2).mean()))
        out[output] = out[output] + np.asarray(scale * rms * rng.standard_normal(out[output].shape), np.float32)
        return out

    return ArraySession(run, program.part.interface)  # type: ignore[arg-type]


@pytest.mark.parametrize("output", ["double", "square"])
@pytest.mark.parametrize("scale", [0.1, 0.01])
def test_noise_of_a_known_size(program: Program, output: str, scale: float) -> None:
    (metric,) = evaluator(program)(noisy(program, scale, output=output)).paired
    assert metric.name == "output_sqnr_db"
    assert metric.value == pytest.approx(-20 * math.log10(scale), abs=4 * metric.standard_error)
    assert 0 < metric.standard_error < 0.3
    assert metric.samples == 20
    assert metric.higher_is_better
    assert metric.limit == "min_sqnr_db"


def test_the_standard_error_is_the_spread_of_repeated_measures(program: Program) -> None:
    evaluate = evaluator(program, samples=12)
    found = [evaluate(noisy(program, 0.05, seed=seed)).paired[0] for seed in range(40)]
    spread = float(np.std([m.value for m in found], ddof=1))
    # The inputs stay the same from one measure to the next, and only the noise changes.
    assert spread == pytest.approx(float(np.mean([m.standard_error for m in found])), rel=0.5)


def test_a_program_beside_itself_and_one_that_fails(program: Program) -> None:
    evaluate = evaluator(program, samples=3)
    assert evaluate(TorchSession(program.part)).paired[0].value == 400.0
    assert evaluate(noisy(program, math.nan)).paired[0].value == -400.0
    silent = ArraySession(
        lambda feeds: {n: np.zeros_like(a) for n, a in TorchSession(program.part).call(feeds).items()},
        program.part.interface,
    )
    assert evaluate(silent).paired[0].value == pytest.approx(0.0)


def test_pooled_energies() -> None:
    value, error = pooled_sqnr([(4.0, 0.04), (4.0, 0.04)])
    assert value == pytest.approx(20.0)
    assert error == 0.0
    # Energies are summed before the ratio: a quiet sample with much noise does not count as much as a loud one.
    assert pooled_sqnr([(99.0, 0.5), (1.0, 0.5)])[0] == pytest.approx(20.0)
    assert pooled_sqnr([(0.0, 1.0), (0.0, 1.0)]) == (-400.0, 0.0)
    assert pooled_sqnr([(1.0, math.inf), (1.0, 0.0)]) == (-400.0, 0.0)


def test_samples_are_draws_of_the_example_and_differ_by_seed(program: Program) -> None:
    seen: list[Array] = []

    def spy(feeds: dict[str, Array]) -> dict[str, Array]:
        seen.append(feeds["x"])
        return TorchSession(program.part).call(feeds)

    for seed in (0, 0, 1):
        evaluator(program, samples=2, seed=seed)(ArraySession(spy, program.part.interface))  # type: ignore[arg-type]
    example = set(program.part.examples["x"].ravel().tolist())
    assert all(set(array.ravel().tolist()) <= example for array in seen)
    assert np.array_equal(seen[0], seen[2])
    assert not np.array_equal(seen[0], seen[4])
    assert not np.array_equal(seen[0], seen[1])


def test_large_outputs_are_measured_on_fewer_samples(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "MAX_KEPT_BYTES", 4 * 150 * 3 * 4)  # four samples of an input and two outputs
    (metric,) = evaluator(program, samples=100)(noisy(program, 0.1)).paired
    assert metric.samples == 4
    monkeypatch.setattr(tensors, "MAX_KEPT_BYTES", 1)
    (metric,) = evaluator(program, samples=100)(noisy(program, 0.1)).paired
    assert metric.samples == 2


def test_own_data_cannot_evaluate_arrays(program: Program) -> None:
    with pytest.raises(ConfigError, match="cannot evaluate a model of arrays"):
        program_evaluation(program, "inputs.npz")


class Running(nn.Module):
    """A sum over all calls."""

    def forward(self, x: torch.Tensor, total: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": total + x, "new_total": total + x}


def test_an_error_in_the_state_alone_counts() -> None:
    state = StateSpec(input="total", output="new_total", dtype="float32", shape=("batch", 4), kind="recurrent")
    running = make_program(
        Running().eval(),
        example_inputs={"x": torch.ones(2, 4), "total": torch.zeros(2, 4)},
        dims={"x": {0: "batch"}},
        state=(state,),
    )

    def forgets(values: Mapping[str, Array]) -> dict[str, Array]:
        y = values["x"] + values["total"]
        return {"y": y, "new_total": 0 * y}

    evaluate = evaluator(running, samples=8)
    assert evaluate(TorchSession(running.part)).paired[0].value == 400
    # Of 1, 2, 3, 4 the one that forgets gives 1, 1, 1, 1: 10 log10(30 / 14).
    assert evaluate(ArraySession(forgets, running.part.interface)).paired[0].value == pytest.approx(3.31, abs=0.01)
