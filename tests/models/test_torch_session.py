"""PyTorch as a session: the numbers are the module's own, state is carried, and failures are typed."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aigc_models.families.gan import Generator, GeneratorConfig
from aigc_models.families.lm import TransformerLM
from aigc_models.families.lm_config import LMConfig
from aigc_models.programs import gan_program, lm_program
from aigc_models.torch_session import TorchSession
from aigc_runtime.errors import EngineError, FeedError

SAME = 2e-5  # float32, with and without a cache: sums run in another order

CONFIG = LMConfig(vocab_size=256, context_length=12, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=24)


@pytest.fixture
def model() -> TransformerLM:
    torch.manual_seed(0)
    return TransformerLM(CONFIG).eval()


@pytest.fixture(params=["growing", "buffer"])
def session(request: pytest.FixtureRequest, model: TransformerLM) -> TorchSession:
    return TorchSession(lm_program(model, cache=request.param).part)


def feeds(ids: np.ndarray, *pad: int) -> dict[str, np.ndarray]:
    pads = np.array(pad or [0] * len(ids), dtype=np.int64)
    return {"input_ids": ids, "pad_length": pads, "logits_to_keep": np.arange(ids.shape[1])}


@torch.no_grad()
def test_decoding_step_by_step_is_the_model_on_the_whole_text(session: TorchSession, model: TransformerLM) -> None:
    ids = np.random.default_rng(0).integers(0, 256, (2, 9))
    state = session.new_state(2)
    parts = [session.run(feeds(ids[:, a:b], 0, 2), state)["logits"] for a, b in ((0, 6), (6, 7), (7, 9))]
    assert state.length == 9
    expected = model(torch.from_numpy(ids), pad_length=torch.tensor([0, 2])).logits.numpy()
    assert np.abs(np.concatenate(parts, axis=1) - expected).max() <= SAME
    forgotten = session.run(feeds(ids[:, 6:7], 0, 0), session.new_state(2))["logits"]
    assert np.abs(forgotten - expected[:, 6:7]).max() > 100 * SAME


def test_states_do_not_meet(session: TorchSession) -> None:
    ids = np.arange(8).reshape(2, 4)
    alone, other = session.new_state(2), session.new_state(2)
    session.run(feeds(ids), alone)
    expected = session.run(feeds(ids[:, :1]), alone)["logits"]
    again = session.new_state(2)
    session.run(feeds(ids), again)
    session.run(feeds(ids + 9), other)
    np.testing.assert_array_equal(session.run(feeds(ids[:, :1]), again)["logits"], expected)


def test_dropout_and_batch_statistics_are_off() -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(CONFIG, dropout=0.5)
    program = lm_program(TransformerLM(config))
    program.part.module.train()
    session, ids = TorchSession(program.part), np.arange(4)[None]
    a, b = (session.run(feeds(ids), session.new_state(1))["logits"] for _ in range(2))
    np.testing.assert_array_equal(a, b)
    generator = Generator(GeneratorConfig(image_size=8, latent_size=4, num_classes=3, base_channels=4))
    means = generator.norm_in.running_mean.clone()  # type: ignore[union-attr]
    latents = np.ones((2, 4), np.float32)
    TorchSession(gan_program(generator).part).run({"latents": latents, "class_labels": np.zeros(2, np.int64)})
    assert torch.equal(means, generator.norm_in.running_mean)  # type: ignore[arg-type]


def test_results_carry_no_gradient_and_belong_to_the_caller(session: TorchSession) -> None:
    state = session.new_state(1)
    first = session.run(feeds(np.array([[1]])), state)["logits"]
    kept = first.copy()
    first[:] = np.nan
    second = session.run(feeds(np.array([[2]])), state)["logits"]
    assert np.isfinite(second).all()
    repeat = session.run(feeds(np.array([[1]])), session.new_state(1))["logits"]
    np.testing.assert_array_equal(repeat, kept)


def test_arrays_that_may_not_be_written_or_are_not_contiguous_are_taken(session: TorchSession) -> None:
    """PyTorch warns about read-only memory, and warnings are errors here."""
    ids = np.arange(8).reshape(2, 4)
    expected = session.run(feeds(ids), session.new_state(2))["logits"]
    frozen = ids.copy()
    frozen.flags.writeable = False
    strided = np.repeat(ids, 2, axis=1)[:, ::2]
    assert not strided.flags.c_contiguous
    for given in (frozen, strided, np.asfortranarray(ids)):
        np.testing.assert_array_equal(session.run(feeds(given), session.new_state(2))["logits"], expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_ids": np.array([[256]])}, "'input_ids' holds values from 256 to 256"),
        ({"input_ids": np.array([[1]], dtype=np.int32)}, "'input_ids' has dtype <i4 (int32), expected int64"),
        ({"pad_length": np.array([12])}, "'pad_length' holds values from 12 to 12"),
        ({"input_ids": np.zeros((1, 13), np.int64)}, "dimension 'sequence' is 13"),
        ({"past_key_0": np.zeros(1)}, "unexpected ['past_key_0']"),
    ],
)
def test_wrong_feeds_are_named(session: TorchSession, change: dict[str, Any], message: str) -> None:
    with pytest.raises(FeedError) as caught:
        session.run({**feeds(np.array([[1]])), **change}, session.new_state(1))
    assert message in str(caught.value)


def test_a_text_beyond_the_context_is_an_error_of_its_own(session: TorchSession) -> None:
    state = session.new_state(1)
    session.run(feeds(np.zeros((1, 12), np.int64)), state)
    with pytest.raises((FeedError, EngineError), match=r"1 steps do not fit|PyTorch failed in _CachedLM: index 12"):
        session.run(feeds(np.array([[1]])), state)
    assert state.length == 12


def test_what_the_module_raises_is_an_engine_error() -> None:
    class Failing(nn.Module):
        def forward(self, latents: Tensor, _labels: Tensor) -> tuple[Tensor]:
            return (latents @ torch.ones(3, 2),)

    program = gan_program(Generator(GeneratorConfig(image_size=8, latent_size=4, num_classes=3, base_channels=4)))
    session = TorchSession(dataclasses.replace(program.part, module=Failing()))
    with pytest.raises(EngineError, match="PyTorch failed in Failing: mat1 and mat2 shapes cannot be multiplied"):
        session.run({"latents": np.ones((2, 4), np.float32), "class_labels": np.zeros(2, np.int64)})
    session.close()
    with pytest.raises(EngineError, match="the session is closed"):
        session.run({"latents": np.ones((2, 4), np.float32), "class_labels": np.zeros(2, np.int64)})
