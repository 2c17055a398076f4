from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from aigc_models.gan import DiscriminatorConfig, GeneratorConfig, hinge_loss
from aigc_models.training.image_data import ImageData
from aigc_models.training.loop import STATE_FILE, STATE_JSON, LoopConfig, TrainingError, learning_rate, train
from aigc_models.training.tasks import GanTask, reestimate_batch_norm
from aigc_runtime.errors import CheckpointError, ConfigError, OutputError

LOOP = LoopConfig(steps=8, batch=4, learning_rate=0.1, warmup=2, save_every=4, ema=0.9)
RECORD = {"family": "line", "model": {"sizes": (3, 1)}}


class Line:
    """Fits a line; NaN at a chosen step."""

    def __init__(self, *, nan_at: int = -1, features: int = 3) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = nn.Linear(features, 1)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        self.optimizers: dict[str, torch.optim.Optimizer] = {"model": optimizer}
        self.extra: dict[str, nn.Module] = {}
        self.rates: list[float] = []
        self.nan_at, self.features = nan_at, features

    def step(self, rng: torch.Generator) -> dict[str, float]:
        optimizer = self.optimizers["model"]
        self.rates.append(optimizer.param_groups[0]["lr"])
        if len(self.rates) == self.nan_at:
            return {"loss": math.nan}
        x = torch.randn(4, self.features, generator=rng)
        loss = (self.model(x) - x.sum(dim=1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss.item()}


class Stopped(Exception):
    pass


def stop_after(step: int):
    def progress(done: int, steps: int, losses: dict[str, float]) -> None:
        if done == step:
            raise Stopped

    return progress


def run(output: Path, *, resume: bool = False, task: object = None, config: LoopConfig = LOOP, **options: object):
    task = task if task is not None else Line()
    return train(task, config, model_config=RECORD, output=output, resume=resume, **options)


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    with pytest.raises(Stopped):
        run(tmp_path / "run", progress=stop_after(6))
    return tmp_path / "run"


def assert_same(one: nn.Module, other: nn.Module) -> None:
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_the_learning_rate_warms_up_and_falls_along_half_a_cosine() -> None:
    config = LoopConfig(steps=100, batch=1, learning_rate=1.0, warmup=10, final_rate=0.2)
    assert learning_rate(0, config) == pytest.approx(0.1 * 1.0)
    assert learning_rate(50, config) == pytest.approx((1 + 0.2) / 2)  # the middle of the cosine
    assert learning_rate(100, config) == pytest.approx(0.2)
    rates = [learning_rate(s, config) for s in range(10, 101)]
    assert rates == sorted(rates, reverse=True)


def test_every_step_runs_at_its_scheduled_rate(tmp_path: Path) -> None:
    task = Line()
    run(tmp_path, task=task)
    assert task.rates == pytest.approx([0.1 * learning_rate(s, LOOP) for s in range(8)])


def test_an_interrupted_run_ends_bit_for_bit_as_an_unbroken_one(tmp_path: Path, interrupted: Path) -> None:
    task = Line()
    resumed = run(interrupted, resume=True, task=task)
    assert len(task.rates) == 4  # from step 4, where the last checkpoint was, and not from 0 or 6
    assert_same(run(tmp_path / "whole"), resumed)


def test_the_comparison_can_fail(tmp_path: Path, interrupted: Path) -> None:
    state = load_file(interrupted / STATE_FILE)
    assert any(key.startswith("optimizer/model/0/exp_avg") for key in state)
    one, other = run(tmp_path / "a"), run(tmp_path / "b", config=replace(LOOP, seed=1))
    with pytest.raises(AssertionError):
        assert_same(one, other)


def images() -> ImageData:
    rng = torch.Generator().manual_seed(0)
    x, y = torch.rand(12, 1, 8, 8, generator=rng) * 2 - 1, torch.arange(12) % 3
    return ImageData(train=x, train_labels=y, held_out=x, held_out_labels=y, class_names=("a", "b", "c"))


def gan_task() -> GanTask:
    torch.manual_seed(0)
    generator = GeneratorConfig(image_size=8, latent_size=4, num_classes=3, class_embedding_size=2, base_channels=2)
    judge = DiscriminatorConfig(image_size=8, num_classes=3, base_channels=2)
    return GanTask(generator, judge, LOOP, images(), hinge_loss)


def test_two_optimisers_batch_norm_and_spectral_norm_are_resumed_bit_for_bit(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(tmp_path / "run", task=gan_task(), progress=stop_after(7))
    whole, part = gan_task(), gan_task()
    assert_same(run(tmp_path / "whole", task=whole), run(tmp_path / "run", task=part, resume=True))
    assert_same(whole.discriminator, part.discriminator)


def test_the_result_is_the_moving_average(tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []
    task = Line()
    result = run(tmp_path, task=task, progress=lambda *_: seen.append(task.model.weight.detach().double().clone()))
    torch.manual_seed(0)
    expected = nn.Linear(3, 1).weight.detach().double()
    for step, weights in enumerate(seen):
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weights
    torch.testing.assert_close(result.weight.double(), expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(result.weight, task.model.weight)
    assert not result.training


def test_without_an_average_the_result_is_the_model(tmp_path: Path) -> None:
    task = Line()
    assert run(tmp_path, task=task, config=replace(LOOP, ema=0.0)) is task.model


def test_a_nan_loss_stops_the_run_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the loss became \{'loss': nan\} at step 6\nlower the learning rate"):
        run(tmp_path / "run", task=Line(nan_at=6))
    assert_same(run(tmp_path / "whole"), run(tmp_path / "run", resume=True))


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing to resume in .*\nrun without --resume"):
        run(tmp_path / "nowhere", resume=True)


def test_other_settings_are_named(interrupted: Path) -> None:
    with pytest.raises(CheckpointError, match="used other settings: batch, seed\nresume with the settings"):
        run(interrupted, resume=True, config=replace(LOOP, seed=3, batch=2))


def test_another_model_is_refused(interrupted: Path) -> None:
    with pytest.raises(CheckpointError, match="used other settings: model"):
        train(Line(), LOOP, model_config={**RECORD, "model": {"sizes": [4, 1]}}, output=interrupted, resume=True)
    with pytest.raises(CheckpointError, match=r"tensor 'weight' has shape \[1, 3\], expected \[1, 4\]"):
        run(interrupted, resume=True, task=Line(features=4))


@pytest.mark.parametrize(
    ("name", "content"),
    [(STATE_JSON, b"[]"), (STATE_JSON, b'{"step": 4}'), (STATE_JSON, b"{"), (STATE_FILE, b""), (STATE_FILE, b"PK\3\4")],
)
def test_a_damaged_state(interrupted: Path, name: str, content: bytes) -> None:
    (interrupted / name).write_bytes(content)
    with pytest.raises(CheckpointError):
        run(interrupted, resume=True)


@pytest.mark.parametrize("name", [STATE_JSON, STATE_FILE])
def test_a_state_with_a_file_missing(interrupted: Path, name: str) -> None:
    (interrupted / name).unlink()
    with pytest.raises(CheckpointError, match=f"no readable {name}"):
        run(interrupted, resume=True)


def test_an_output_that_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(OutputError, match="it exists and is not a directory"):
        run(tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "x"


@pytest.mark.parametrize("bad", [{"steps": 0}, {"batch": 0}, {"ema": 1.0}, {"learning_rate": 0.0}, {"save_every": -1}])
def test_settings_that_make_no_run(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(bad))}"):
        replace(LOOP, **bad)


def test_batch_norm_statistics_are_those_of_the_averaged_weights() -> None:
    generator = gan_task().generator
    with torch.no_grad():
        generator.project.weight.mul_(3)
        generator.project.bias.add_(2)
    reestimate_batch_norm(generator, batches=40, seed=0)
    assert not generator.training
    assert [m.momentum for m in generator.modules() if isinstance(m, nn.BatchNorm2d)] == [0.1, 0.1]
    rng = torch.Generator().manual_seed(99)
    z, y = torch.randn(20_000, 4, generator=rng), torch.randint(3, (20_000,), generator=rng)
    with torch.no_grad():
        x = generator.project(torch.cat([z, generator.class_embedding(y)], dim=1)).unflatten(1, (-1, 4, 4))
    mean, variance = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3))
    # 5,120 draws against 20,000: sampling error of a few per cent of the deviation
    torch.testing.assert_close(generator.norm_in.running_mean, mean, rtol=0, atol=0.08 * variance.max().sqrt().item())
    torch.testing.assert_close(generator.norm_in.running_var, variance, rtol=0.1, atol=0)
