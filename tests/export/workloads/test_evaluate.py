"""Evaluation beside a reference: known answers from PyTorch and from images that are off by a known step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from aigc_export.workloads import get_workload
from aigc_export.workloads.base import EvaluationFacts
from aigc_export.workloads.evaluate import make_evaluator
from aigc_models.evaluation.evaluation import Evaluation
from aigc_models.evaluation.metrics import text_windows
from aigc_models.evaluation.paired import Evaluator, Scores
from aigc_models.program import Program
from aigc_models.sources.shipped import load_shipped
from aigc_models.torch_session import TorchSession
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import ConfigError
from aigc_runtime.pipelines.gan import GanPipeline
from aigc_runtime.pipelines.settings import GanSettings


def changed(spec: Program, change: Callable[[dict[str, Array]], dict[str, Array]]) -> ArraySession:
    session = TorchSession(spec.part)
    function = session._function
    assert function is not None
    session._function = lambda values: change(dict(function(values)))
    return session


def built_in(spec: Program) -> Evaluation:
    facts = EvaluationFacts(class_names=[str(i) for i in range(10)])
    return get_workload(spec.kind).evaluation(spec.settings, facts)


def evaluator_of(spec: Program, *, samples: int, seed: int = 0) -> Evaluator:
    workload, evaluation = get_workload(spec.kind), built_in(spec)
    return make_evaluator(
        workload, TorchSession(spec.part), spec.settings, evaluation=evaluation, samples=samples, seed=seed
    )


def values(scores: Scores) -> dict[str, float]:
    return {m.name: m.value for m in scores.paired}


@pytest.fixture(scope="module")
def lm() -> Program:
    return load_shipped("lm")


def test_perplexity_is_pytorchs(lm: Program) -> None:
    def sharpened(out: dict[str, Array]) -> dict[str, Array]:
        return {**out, "logits": out["logits"] * np.float32(1.1)}

    scores = evaluator_of(lm, samples=6, seed=3)(changed(lm, sharpened))
    found = values(scores)
    # The same windows, scored by PyTorch's own cross entropy.
    text = np.frombuffer(b"\n".join(built_in(lm).pieces), np.uint8)
    windows = torch.from_numpy(text_windows(text, count=6, length=256, seed=3))
    session = TorchSession(lm.part)
    feeds = {"input_ids": windows[:, :-1].numpy(), "pad_length": np.zeros(6, dtype=np.int64)}
    feeds["logits_to_keep"] = np.arange(256)
    logits = torch.from_numpy(session.run(feeds, session.new_state(6))["logits"]).double()
    targets = windows[:, 1:].reshape(-1)
    losses = [F.cross_entropy(x.reshape(-1, 256), targets).item() for x in (logits, logits * 1.1)]
    assert found["ppl_increase"] == pytest.approx(math.exp(losses[1] - losses[0]) - 1, rel=1e-4)
    assert found["top1_agreement"] == 1.0  # a factor changes no order
    assert [q.metric for q in scores.quality] == ["perplexity", "bits_per_byte"]
    assert [q.reference for q in scores.quality] == [
        pytest.approx(math.exp(losses[0]), rel=1e-6),
        pytest.approx(losses[0] / math.log(2), rel=1e-6),
    ]
    assert scores.quality[1].bundle == pytest.approx(losses[1] / math.log(2), rel=1e-5)
    p, q = logits.log_softmax(-1), (logits * 1.1).log_softmax(-1)
    kl = F.kl_div(q.reshape(-1, 256), p.reshape(-1, 256), log_target=True, reduction="batchmean").item()
    assert found["kl_divergence"] == pytest.approx(kl, rel=1e-4)


def test_the_standard_error_is_that_of_paired_windows(lm: Program) -> None:
    def noisy(out: dict[str, Array]) -> dict[str, Array]:
        noise = np.asarray(np.random.default_rng(0).standard_normal(out["logits"].shape), np.float32)
        return {**out, "logits": out["logits"] + 0.3 * noise}

    scores = evaluator_of(lm, samples=16)(changed(lm, noisy))
    ppl = next(m for m in scores.paired if m.name == "ppl_increase")
    # Noise of variance 0.09 on logits costs about half of it (second-order term of log-sum-exp).
    assert 0.01 < ppl.value < 0.09
    assert 0 < ppl.standard_error < ppl.value / 3
    assert values(scores)["top1_agreement"] < 1.0


def test_images_that_are_off_by_a_known_step() -> None:
    spec = load_shipped("gan")

    def shifted(out: dict[str, Array]) -> dict[str, Array]:
        return {"image": out["image"] + np.float32(0.02)}

    scores = evaluator_of(spec, samples=10)(changed(spec, shifted))
    psnr = next(m for m in scores.paired if m.name == "psnr_db")
    assert isinstance(spec.settings, GanSettings)
    images = GanPipeline(TorchSession(spec.part), spec.settings).generate([i % 10 for i in range(10)], seed=0)
    assert psnr.value == pytest.approx(10 * math.log10((images.max() - images.min()) ** 2 / 0.02**2), abs=1e-3)
    assert psnr.standard_error == pytest.approx(0.0, abs=1e-3)
    assert psnr.samples == 10
    assert {q.metric for q in scores.quality} == {"class_accuracy", "frechet_distance"}


def test_a_trajectory_that_is_wrong_at_one_step_only() -> None:
    spec = load_shipped("unet")
    calls: list[int] = []

    def late(out: dict[str, Array]) -> dict[str, Array]:
        calls.append(1)
        off = 1.3 if len(calls) % 20 == 3 else 1.0
        return {"model_output": out["model_output"] * np.float32(off)}

    found = values(evaluator_of(spec, samples=2)(changed(spec, late)))
    assert found["step_sqnr_db"] == pytest.approx(-20 * math.log10(0.3), abs=0.1)
    assert 10 < found["psnr_db"] < 60


@pytest.mark.parametrize("name", ["lm", "unet", "gan", "emoji"])
def test_a_model_beside_itself(name: str) -> None:
    spec = load_shipped(name)
    scores = evaluator_of(spec, samples=2)(TorchSession(spec.part))
    for metric in scores.paired:
        zero = metric.name in ("ppl_increase", "kl_divergence")
        assert metric.value == (0.0 if zero else 1.0 if metric.name == "top1_agreement" else 400.0)
        assert metric.standard_error == 0.0


def test_samples() -> None:
    spec = load_shipped("gan")
    session = TorchSession(spec.part)
    assert evaluator_of(spec, samples=0)(session) == Scores()
    for bad in (1, -1):
        with pytest.raises(ConfigError, match=f"samples is {bad}"):
            evaluator_of(spec, samples=bad)


def test_what_the_own_metric_does_not_fit_is_evaluated_without_it(lm: Program) -> None:
    for spec in (lm, load_shipped("gan")):
        session = TorchSession(spec.part)
        assert evaluator_of(spec, samples=2)(session).quality
        without = replace(built_in(spec), has_task_metric=False)
        workload = get_workload(spec.kind)
        alone = make_evaluator(workload, session, spec.settings, evaluation=without, samples=2)(session)
        assert alone.quality == ()
        assert alone.paired
