"""The models' own metrics through a session: known answers for chance, certainty and real digits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from aigc_models.data.image_data import digits
from aigc_models.data.text_data import standard_library_text
from aigc_models.evaluation import quality
from aigc_models.evaluation.known_pictures import DIGITS, load_classifier
from aigc_models.evaluation.quality import are_digits, image_quality, text_quality
from aigc_models.families.lm import TransformerLM
from aigc_models.families.lm_config import LMConfig
from aigc_models.programs import lm_program
from aigc_models.sources.shipped import load_shipped
from aigc_models.torch_session import TorchSession
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.session import Session
from aigc_runtime.core.tensors import Array, DimSpec, TensorSpec
from aigc_runtime.errors import CheckpointError, EngineError
from aigc_runtime.pipelines.gan import GanPipeline

LM = LMConfig(vocab_size=256, context_length=40, d_model=16, n_layers=1, n_heads=2, d_ff=24)


def text_session(function: Any, longest: int | None) -> ArraySession:
    def call(values: Mapping[str, Array]) -> dict[str, Array]:
        return {"logits": function(values["input_ids"])[:, values["logits_to_keep"]].astype(np.float32)}

    return ArraySession(
        call,
        Interface(
            inputs=(
                TensorSpec(name="input_ids", dtype="int64", shape=("batch", "sequence"), low=0, high=256),
                TensorSpec(name="pad_length", dtype="int64", shape=("batch",)),
                TensorSpec(name="logits_to_keep", dtype="int64", shape=("kept",), low=0, high="sequence"),
            ),
            outputs=(TensorSpec(name="logits", dtype="float32", shape=("batch", "kept", 256)),),
            dims=(DimSpec(name="batch"), DimSpec(name="kept"), DimSpec(name="sequence", max=longest)),
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
    program = lm_program(TransformerLM(LM), cache="buffer")
    held_out = standard_library_text().held_out
    found = values(text_quality(TorchSession(program.part), held_out, samples=3, seed=0))
    assert 7.5 < found["bits_per_byte"] < 8.5


@pytest.mark.parametrize("cache", ["growing", "buffer"])
@pytest.mark.parametrize("most", [1, 7, 1000])
def test_logits_of_pieces_behind_a_cache_are_those_of_the_whole(
    cache: Any, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = TransformerLM(LM).eval()
    session = TorchSession(lm_program(model, cache=cache).part)
    ids = np.random.default_rng(0).integers(0, 256, (3, 40))
    monkeypatch.setattr("aigc_models.evaluation.quality.MAX_LOGITS", most * 3 * 256)
    pieces = list(quality.session_logits(session)(ids))
    assert max(piece.shape[1] for piece in pieces) == min(most, 40)
    with torch.no_grad():
        expected = model(torch.from_numpy(ids)).logits.numpy()
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), expected, rtol=1e-4, atol=1e-4)


def test_an_engine_that_keeps_few_places_is_asked_for_few() -> None:
    torch.manual_seed(0)
    part = lm_program(TransformerLM(LM)).part
    dims = [dataclasses.replace(dim, max=6) if dim.name == "kept" else dim for dim in part.interface.dims]
    session = TorchSession(dataclasses.replace(part, interface=part.interface.with_dims(dims)))
    ids = np.zeros((2, 40), dtype=np.int64)
    assert [piece.shape[1] for piece in quality.session_logits(session)(ids)] == [6] * 6 + [4]


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
    labels = np.arange(100) % 10

    def measured(candidate: Session) -> dict[str, float]:
        return values(image_quality(GanPipeline(candidate, program.settings).generate(labels.tolist(), seed=0), labels))

    ours = measured(session)
    assert ours["class_accuracy"] >= 0.9
    assert measured(session) == ours

    def swapped(feeds: Mapping[str, Array]) -> dict[str, Array]:
        return session.run({**feeds, "class_labels": (feeds["class_labels"] + 1) % 10})

    assert measured(ArraySession(swapped, program.part.interface))["class_accuracy"] < 0.1

    def nan(feeds: Mapping[str, Array]) -> dict[str, Array]:
        return {"image": session.run(feeds)["image"] * np.float32("nan")}

    with pytest.raises(EngineError):
        measured(ArraySession(nan, program.part.interface))


def test_what_may_be_digits() -> None:
    assert are_digits((1, 16, 16), 10)
    assert not are_digits((1, 8, 8), 10)
    assert not are_digits((1, 16, 16), 9)
    assert not are_digits((1, 16, 16), None)
    for name in ("unet", "gan"):
        settings = load_shipped(name).settings
        assert are_digits(settings.sample_shape, settings.num_classes)


def test_a_missing_classifier_says_so(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aigc_models.evaluation.known_pictures.shipped_checkpoint", lambda name: tmp_path / name)
    load_classifier.cache_clear()
    try:
        with pytest.raises(CheckpointError, match="classifier"):
            load_classifier(DIGITS)
    finally:
        load_classifier.cache_clear()
