"""The models' own metrics through a session: known answers for chance, certainty and real digits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from aigc_models.data.image_data import digits
from aigc_models.evaluation import quality
from aigc_models.evaluation.quality import (
    HIGHER_IS_BETTER,
    can_measure,
    digit_classifier,
    image_quality,
    measure,
    text_quality,
)
from aigc_models.families.gan import Generator, GeneratorConfig
from aigc_models.families.lm import TransformerLM
from aigc_models.families.lm_config import LMConfig
from aigc_models.programs import gan_program, lm_program
from aigc_models.sources.shipped import load_shipped
from aigc_models.torch_session import TorchSession
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import Array, DimSpec, TensorSpec
from aigc_runtime.errors import CheckpointError, EngineError
from aigc_runtime.generation.tokenizers import TokenizerInfo

LM = LMConfig(vocab_size=256, context_length=40, d_model=16, n_layers=1, n_heads=2, d_ff=24)


def text_session(function: Any, longest: int | None) -> ArraySession:
    def call(values: Mapping[str, Array]) -> dict[str, Array]:
        return {"logits": function(values["input_ids"]).astype(np.float32)}

    return ArraySession(
        call,
        Interface(
            inputs=(
                TensorSpec(name="input_ids", dtype="int64", shape=("batch", "sequence"), low=0, high=256),
                TensorSpec(name="pad_length", dtype="int64", shape=("batch",)),
            ),
            outputs=(TensorSpec(name="logits", dtype="float32", shape=("batch", "sequence", 256)),),
            dims=(DimSpec(name="batch"), DimSpec(name="sequence", max=longest)),
        ),
    )


def values(metrics: tuple[quality.Metric, ...]) -> dict[str, float]:
    return {m.name: m.value for m in metrics}


@pytest.mark.parametrize("longest", [None, 1, 40, 1000])
def test_chance_is_eight_bits_and_a_model_that_counts_needs_none(longest: int | None) -> None:
    text = (np.arange(2000) % 256).astype(np.uint8)
    asked: list[int] = []

    def uniform(ids: Array) -> Array:
        asked.append(ids.shape[1])
        return np.zeros((*ids.shape, 256))

    found = values(text_quality(text_session(uniform, longest), text, samples=5, seed=0))
    assert found == {"bits_per_byte": pytest.approx(8.0)}
    # As long as the model takes, and no longer than needed.
    assert set(asked) == {min(longest or 256, 256)}
    counting = text_session(lambda ids: 100.0 * np.eye(256)[(ids + 1) % 256], longest)
    assert values(text_quality(counting, text, samples=5, seed=0))["bits_per_byte"] == pytest.approx(0, abs=1e-6)


def test_a_model_with_a_short_context_is_measured_too() -> None:
    torch.manual_seed(0)
    program = lm_program(TransformerLM(LM), tokenizer={"kind": "bytes"}, cache="buffer")
    found = values(measure(TorchSession(program.part), program.settings, samples=3))
    assert 7.5 < found["bits_per_byte"] < 8.5


def test_real_digits_are_seen_as_themselves_and_noise_is_not() -> None:
    data = digits()
    real, labels = data.held_out.numpy(), data.held_out_labels.numpy()
    found = values(image_quality(real, labels))
    assert list(found) == ["class_accuracy", "frechet_distance"]
    assert found["class_accuracy"] > 0.95
    noise = np.random.default_rng(0).uniform(-1, 1, real.shape).astype(np.float32)
    chance = values(image_quality(noise, labels))
    assert chance["class_accuracy"] < 0.3
    assert chance["frechet_distance"] > 10 * found["frechet_distance"]
    shuffled = values(image_quality(real, (labels + 1) % 10))
    assert shuffled["class_accuracy"] < 0.05
    assert shuffled["frechet_distance"] == found["frechet_distance"]


def test_an_engine_that_breaks_the_pictures_scores_worse_than_pytorch() -> None:
    program = load_shipped("gan")
    session = TorchSession(program.part)
    ours = values(measure(session, program.settings, samples=100))
    assert ours["class_accuracy"] >= 0.9
    assert values(measure(session, program.settings, samples=100)) == ours

    asked: list[int] = []

    def swapped(feeds: Mapping[str, Array]) -> dict[str, Array]:
        asked.extend(feeds["class_labels"].tolist())
        return session.run({**feeds, "class_labels": (feeds["class_labels"] + 1) % 10})

    broken = ArraySession(swapped, program.part.interface)
    assert values(measure(broken, program.settings, samples=100))["class_accuracy"] < 0.1
    assert sorted(asked) == sorted([*range(10)] * 10)

    def nan(feeds: Mapping[str, Array]) -> dict[str, Array]:
        return {"image": session.run(feeds)["image"] * np.float32("nan")}

    with pytest.raises(EngineError):
        measure(ArraySession(nan, program.part.interface), program.settings, samples=20)


def test_what_has_no_metric_is_not_measured() -> None:
    program = gan_program(Generator(GeneratorConfig(image_size=8, latent_size=4, base_channels=4)))
    assert not can_measure(program.settings)
    assert measure(TorchSession(program.part), program.settings, samples=10) == ()
    other = gan_program(Generator(GeneratorConfig(image_size=16, num_classes=9, latent_size=4, base_channels=4)))
    assert not can_measure(other.settings)
    for name in ("lm", "unet", "gan"):
        shipped = load_shipped(name)
        assert can_measure(shipped.settings)
        assert measure(TorchSession(shipped.part), shipped.settings, samples=0) == ()
    text: Any = load_shipped("lm").settings
    assert not can_measure(dataclasses.replace(text, tokenizer=TokenizerInfo(kind="words")))


def test_every_metric_has_a_direction() -> None:
    data = digits()
    found = values(image_quality(data.train[:20].numpy(), data.train_labels[:20].numpy()))
    assert {*found, "bits_per_byte"} == set(HIGHER_IS_BETTER)
    assert HIGHER_IS_BETTER == {"bits_per_byte": False, "class_accuracy": True, "frechet_distance": False}


def test_a_missing_classifier_says_so(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aigc_models.evaluation.quality.shipped_checkpoint", lambda name: tmp_path / name)
    digit_classifier.cache_clear()
    try:
        with pytest.raises(CheckpointError, match="classifier"):
            digit_classifier()
    finally:
        digit_classifier.cache_clear()
