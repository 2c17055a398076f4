from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aigc_models.families.diffusion import Conditions, diffusion_loss, drop_conditions, q_sample, velocity
from aigc_models.families.unet import UNet, UNetConfig
from aigc_runtime.errors import ConfigError

EXACT = 1e-12  # float64, a few roundings
FLOAT = 1e-6  # float32, a few roundings of numbers near one
STEPS = 50
BETAS = np.linspace(1e-3, 0.2, STEPS)
ALPHAS_CUMPROD = torch.from_numpy(np.cumprod(1 - BETAS))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pair(batch: int = 6, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    g = rng()
    shape = (batch, 2, 3, 5)
    t = torch.randint(STEPS, (batch,), generator=g)
    return torch.randn(shape, generator=g, dtype=dtype), torch.randn(shape, generator=g, dtype=dtype), t


class Recorder(nn.Module):
    """Stands in for a UNet: keeps what it is given, answers with what `answer` makes of it."""

    def __init__(self, answer: Any, null_class: int | None = None) -> None:
        super().__init__()
        self.config = SimpleNamespace(null_class=null_class)
        self.answer = answer
        self.given: tuple[Any, ...] = ()

    def forward(self, *given: Any) -> Tensor:
        self.given = given
        result: Tensor = self.answer(*given)
        return result


def silent(sample: Tensor, *_: Any) -> Tensor:
    return torch.zeros_like(sample)


def loss_of(model: nn.Module, x0: Tensor, conditions: Conditions = Conditions(), **changes: Any) -> Tensor:  # noqa: B008 - a tuple
    settings = {"alphas_cumprod": ALPHAS_CUMPROD, "prediction_type": "epsilon", "rng": rng(), **changes}
    return diffusion_loss(model, x0, conditions, **settings)  # type: ignore[arg-type]


# --- forward process


def test_one_draw_is_the_end_of_the_chain_of_small_steps() -> None:
    # Ho 2020, eq. 2: x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) z. Mean and variance carried along step by step
    # must be those of eq. 4, which q_sample draws in one go.
    x0 = torch.full((STEPS, 1, 1, 1), 3.0, dtype=torch.float64)
    t = torch.arange(STEPS)
    mean = q_sample(x0, torch.zeros_like(x0), ALPHAS_CUMPROD, t).flatten().numpy()
    deviation = q_sample(torch.zeros_like(x0), torch.ones_like(x0), ALPHAS_CUMPROD, t).flatten().numpy()
    expected_mean, expected_variance = 3.0, 0.0
    for step, beta in enumerate(BETAS):
        expected_mean = np.sqrt(1 - beta) * expected_mean
        expected_variance = (1 - beta) * expected_variance + beta
        assert mean[step] == pytest.approx(expected_mean, rel=EXACT)
        assert deviation[step] ** 2 == pytest.approx(expected_variance, rel=EXACT)


def test_every_row_has_its_own_step() -> None:
    x0, noise, t = pair()
    together = q_sample(x0, noise, ALPHAS_CUMPROD, t)
    for i in range(len(t)):
        alone = q_sample(x0[i : i + 1], noise[i : i + 1], ALPHAS_CUMPROD, t[i : i + 1])
        assert torch.equal(together[i : i + 1], alone)


def test_sample_and_velocity_turn_into_each_other_by_a_rotation() -> None:
    # Salimans & Ho 2022, appendix D: x_0 = alpha x_t - sigma v, epsilon = sigma x_t + alpha v
    x0, noise, t = pair()
    xt, v = q_sample(x0, noise, ALPHAS_CUMPROD, t), velocity(x0, noise, ALPHAS_CUMPROD, t)
    alpha = ALPHAS_CUMPROD[t].sqrt().view(-1, 1, 1, 1)
    sigma = (1 - ALPHAS_CUMPROD[t]).sqrt().view(-1, 1, 1, 1)
    torch.testing.assert_close(alpha * xt - sigma * v, x0, rtol=EXACT, atol=EXACT)
    torch.testing.assert_close(sigma * xt + alpha * v, noise, rtol=EXACT, atol=EXACT)


def test_pure_noise_at_zero_terminal_snr() -> None:
    x0, noise, _ = pair()
    alphas, t = torch.tensor([0.9, 0.0], dtype=torch.float64), torch.ones(len(x0), dtype=torch.int64)
    assert torch.equal(q_sample(x0, noise, alphas, t), noise)
    assert torch.equal(velocity(x0, noise, alphas, t), -x0)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_forward_process_and_velocity_are_those_of_diffusers(schedule: str) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(beta_schedule=schedule)
    x0, noise, _ = pair(dtype=torch.float32)
    t = torch.tensor([0, 1, 250, 500, 998, 999])
    for ours, theirs in ((q_sample, scheduler.add_noise), (velocity, scheduler.get_velocity)):
        actual, expected = ours(x0, noise, scheduler.alphas_cumprod, t), theirs(x0, noise, t)
        torch.testing.assert_close(actual, expected, rtol=0, atol=FLOAT)
        swapped = ours(noise, x0, scheduler.alphas_cumprod, t)
        assert (swapped - expected).abs().max() > FLOAT


# --- loss


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_a_perfect_prediction_costs_nothing_and_an_error_its_square(kind: str) -> None:
    x0, _, _ = pair()

    def oracle(sample: Tensor, timestep: Tensor, *_: Any) -> Tensor:
        # Solves x_t = alpha x_0 + sigma epsilon for epsilon, knowing x_0.
        a = ALPHAS_CUMPROD[timestep.long()].view(-1, 1, 1, 1)
        noise = (sample - a.sqrt() * x0) / (1 - a).sqrt()
        return {"epsilon": noise, "sample": x0, "v_prediction": a.sqrt() * noise - (1 - a).sqrt() * x0}[kind]

    assert loss_of(Recorder(oracle), x0, prediction_type=kind).item() == pytest.approx(0.0, abs=EXACT)
    off = Recorder(lambda *given: oracle(*given) + 0.5)
    assert loss_of(off, x0, prediction_type=kind).item() == pytest.approx(0.25, rel=1e-9)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_predicting_nothing_costs_the_variance_of_the_target(kind: str) -> None:
    x0 = torch.randn(4096, 1, 4, 4, generator=rng(7))  # unit variance, so that v has it too: a + (1 - a) = 1
    # 65,536 squares of a standard normal: their mean has a standard error of sqrt(2 / 65536) = 0.0055
    assert loss_of(Recorder(silent), x0, prediction_type=kind).item() == pytest.approx(1.0, abs=4 * 0.0055)


def test_the_model_sees_fractional_steps_from_the_whole_range_and_the_noisy_sample() -> None:
    model = Recorder(silent)
    x0 = torch.zeros(2000, 1, 1, 1, dtype=torch.float64)
    loss_of(model, x0)
    sample, timestep, labels, context = model.given
    assert labels is None
    assert context is None
    assert timestep.dtype == torch.float32
    assert timestep.shape == (2000,)
    assert set(timestep.tolist()) == set(map(float, range(STEPS)))  # (1 - 1/50)^2000 = 3e-18 that one is missing
    # With x_0 = 0, x_t is noise of variance 1 - abar_t: scaled back, it is standard normal.
    scaled = sample.flatten() / (1 - ALPHAS_CUMPROD[timestep.long()]).sqrt()
    assert scaled.mean().item() == pytest.approx(0.0, abs=4 / np.sqrt(2000))
    assert scaled.var().item() == pytest.approx(1.0, abs=4 * np.sqrt(2 / 2000))


def test_the_same_seed_gives_the_same_loss() -> None:
    x0, _, _ = pair()
    first, second, other = (loss_of(Recorder(silent), x0, rng=rng(seed)).item() for seed in (3, 3, 4))
    assert first == second
    assert first != other


def test_dropping_conditions_leaves_steps_and_noise_as_they_were() -> None:
    x0, _, _ = pair()
    labels = Conditions(torch.arange(6))
    kept, dropped = Recorder(silent, null_class=9), Recorder(silent, null_class=9)
    loss_of(kept, x0, labels)
    loss_of(dropped, x0, labels, condition_dropout=1.0)
    assert torch.equal(kept.given[0], dropped.given[0])
    assert torch.equal(kept.given[1], dropped.given[1])
    assert kept.given[2].tolist() == [0, 1, 2, 3, 4, 5]
    assert dropped.given[2].tolist() == [9] * 6


def test_a_context_reaches_the_model() -> None:
    x0, _, _ = pair()
    context, null = torch.ones(6, 3, 2), torch.zeros(1, 3, 2)
    model = Recorder(silent)
    loss_of(model, x0, Conditions(None, context))
    assert torch.equal(model.given[3], context)
    loss_of(model, x0, Conditions(None, context), condition_dropout=1.0, null_encoder_hidden_states=null)
    assert torch.equal(model.given[3], torch.zeros_like(context))


def test_an_unknown_prediction_type() -> None:
    x0, _, _ = pair()
    with pytest.raises(ConfigError, match=r"prediction_type is 'flow'\nvalid: epsilon, sample, v_prediction"):
        loss_of(Recorder(silent), x0, prediction_type="flow")


def small_unet() -> UNet:
    torch.manual_seed(0)
    return UNet(
        UNetConfig(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            block_out_channels=(8, 8),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            num_class_embeds=3,
            null_class=2,
            norm_num_groups=4,
        )
    )


@pytest.mark.slow
def test_training_lowers_the_loss() -> None:
    # Two fixed pictures, one per class: what is to be learnt is whether a pixel is bright or dark.
    model, g = small_unet(), rng(1)
    x0 = torch.cat([torch.full((16, 1, 8, 8), -1.0), torch.full((16, 1, 8, 8), 1.0)])
    labels = Conditions(torch.arange(2).repeat_interleave(16))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = loss_of(model, x0, labels, rng=g, condition_dropout=0.1, alphas_cumprod=ALPHAS_CUMPROD.float())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:5])


def test_a_cpu_generator_feeds_a_model_on_another_device() -> None:
    # The meta device computes no numbers, but it refuses tensors of other devices as a GPU does.
    model = small_unet().to("meta")
    x0, labels = torch.empty(4, 1, 8, 8, device="meta"), torch.empty(4, dtype=torch.int64, device="meta")
    alphas = torch.empty(STEPS, device="meta")
    loss = loss_of(model, x0, Conditions(labels), alphas_cumprod=alphas, condition_dropout=0.5)
    assert loss.device.type == "meta"
    with pytest.raises(RuntimeError, match="not on the expected device"):
        x0 + torch.randn(4, 1, 8, 8)  # noise left on the generator's device would stop here


# --- condition dropout


def dropped(conditions: Conditions, **changes: Any) -> Conditions:
    settings: dict[str, Any] = {"null_class": 9, "null_encoder_hidden_states": torch.zeros(1, 2, 3), "rng": rng()}
    return drop_conditions(conditions, **{**settings, **changes})


def test_rows_lose_their_conditions_at_the_given_rate() -> None:
    labels = torch.zeros(20_000, dtype=torch.int64)
    found = dropped(Conditions(labels), probability=0.1).class_labels
    assert found is not None
    rate = (found == 9).double().mean().item()
    assert rate == pytest.approx(0.1, abs=4 * np.sqrt(0.1 * 0.9 / 20_000))
    assert labels.eq(0).all()  # the caller's own labels stay


def test_a_row_loses_both_conditions_or_none() -> None:
    labels, context = torch.arange(200) % 9, torch.ones(200, 2, 3)
    found = dropped(Conditions(labels, context), probability=0.5)
    assert found.class_labels is not None
    assert found.encoder_hidden_states is not None
    lost = found.class_labels == 9
    assert 50 < lost.sum() < 150
    assert torch.equal(found.encoder_hidden_states, torch.where(lost.view(-1, 1, 1), 0.0, context))
    assert torch.equal(found.class_labels[~lost], labels[~lost])


@pytest.mark.parametrize("conditions", [Conditions(), Conditions(torch.arange(4), torch.ones(4, 2, 3))])
def test_nothing_is_drawn_where_nothing_can_be_dropped(conditions: Conditions) -> None:
    g = rng()
    before = g.get_state()
    probability = 0.5 if conditions.class_labels is None else 0.0
    assert dropped(conditions, probability=probability, null_class=None, rng=g) is conditions
    assert torch.equal(g.get_state(), before)


@pytest.mark.parametrize("probability", [-0.1, 1.1, float("nan")])
def test_a_probability_outside_its_range(probability: float) -> None:
    with pytest.raises(ConfigError, match=rf"condition_dropout is {probability}\nmust be from 0 to 1"):
        dropped(Conditions(torch.arange(4)), probability=probability)


def test_conditions_without_a_null_value_cannot_be_dropped() -> None:
    with pytest.raises(ConfigError, match=r"condition_dropout is 0\.1, but class_labels have no null value\nset null_"):
        dropped(Conditions(torch.arange(4)), probability=0.1, null_class=None)
    with pytest.raises(ConfigError, match="encoder_hidden_states have no null value\nset null_encoder_hidden_states"):
        dropped(Conditions(None, torch.ones(4, 2, 3)), probability=0.1, null_encoder_hidden_states=None)
