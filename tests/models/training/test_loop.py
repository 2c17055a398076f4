from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_file, save
from torch import nn

from aigc_models.data.image_data import ImageData
from aigc_models.families.gan import DiscriminatorConfig, Generator, GeneratorConfig, hinge_loss
from aigc_models.training.curve import Curve
from aigc_models.training.every import Every, parse_every
from aigc_models.training.loop import (
    LoopConfig,
    OnStep,
    Task,
    TrainingError,
    TrainingInterruptedError,
    Watch,
    learning_rate,
    train,
)
from aigc_models.training.state import STATE_FILE, STATE_JSON, unfinished
from aigc_models.training.tasks import GanTask, reestimate_batch_norm
from aigc_models.weights.checkpoint import load_checkpoint, save_checkpoint
from aigc_runtime.errors import CheckpointError, ConfigError, OutputError

LOOP = LoopConfig(steps=8, batch_size=4, learning_rate=0.1, warmup=2, ema=0.9)
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

    def held_out_loss(self, model: nn.Module) -> float | None:
        assert not model.training
        return 0.5


class Stopped(Exception):
    pass


def stop_after(step: int) -> OnStep:
    def on_step(done: int, steps: int, losses: dict[str, float]) -> None:
        if done == step:
            raise Stopped

    return on_step


def run(
    output: Path,
    *,
    resume: bool = False,
    task: Task | None = None,
    config: LoopConfig = LOOP,
    record: Mapping[str, Any] = RECORD,
    data: str = "mine",
    save_every: int = 4,
    **watch: Any,
) -> nn.Module:
    task = task if task is not None else Line()
    options = Watch(save_every=Every(steps=save_every), **watch)
    return train(task, config, record=record, output=output, resume=resume, run={"data": data}, watch=options).result


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    with pytest.raises(Stopped):
        run(tmp_path / "run", on_step=stop_after(6))
    return tmp_path / "run"


def assert_same(one: nn.Module, other: nn.Module) -> None:
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_the_learning_rate_warms_up_and_falls_along_half_a_cosine() -> None:
    config = LoopConfig(steps=100, batch_size=1, learning_rate=1.0, warmup=10, final_rate=0.2)
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
    discriminator = DiscriminatorConfig(image_size=8, num_classes=3, base_channels=2)
    return GanTask(generator, discriminator, LOOP, images(), hinge_loss)


def test_two_optimizers_batch_norm_and_spectral_norm_are_resumed_bit_for_bit(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(tmp_path / "run", task=gan_task(), on_step=stop_after(7))
    whole, part = gan_task(), gan_task()
    assert_same(run(tmp_path / "whole", task=whole), run(tmp_path / "run", task=part, resume=True))
    assert_same(whole.discriminator, part.discriminator)


def test_the_result_is_the_moving_average(tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []
    task = Line()
    result = run(
        tmp_path,
        task=task,
        on_step=lambda *_: seen.append(task.model.get_parameter("weight").detach().double().clone()),
    )
    torch.manual_seed(0)
    expected = nn.Linear(3, 1).weight.detach().double()
    for step, weights in enumerate(seen):
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weights
    averaged = result.get_parameter("weight")
    torch.testing.assert_close(averaged.double(), expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(averaged, task.model.get_parameter("weight"))
    assert not result.training


def test_without_an_average_the_result_is_the_model(tmp_path: Path) -> None:
    task = Line()
    assert run(tmp_path, task=task, config=replace(LOOP, ema=0.0)) is task.model


def test_a_nan_loss_stops_the_run_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"the loss became \{'loss': nan\} at step 6\n.* lower --learning-rate"
    ) as e:
        run(tmp_path / "run", task=Line(nan_at=6))
    assert f"the weights of step 4 are in '{tmp_path / 'run'}'" in e.value.hint
    assert_same(run(tmp_path / "whole"), run(tmp_path / "run", resume=True))


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"nothing to resume in .*: no training.json and no training.saf.*\nrun without --res"
    ):
        run(tmp_path / "nowhere", resume=True)
    save_checkpoint(tmp_path / "done", nn.Linear(3, 1), RECORD)
    with pytest.raises(CheckpointError, match=r"nothing to resume in .*: its training is finished"):
        run(tmp_path / "done", resume=True)


def test_an_unfinished_run_is_not_replaced_without_a_word(interrupted: Path) -> None:
    before = (interrupted / STATE_FILE).read_bytes()
    with pytest.raises(CheckpointError, match=r"holds a training that stopped at step 4 of 8\ngo on with --resume"):
        run(interrupted)
    assert (interrupted / STATE_FILE).read_bytes() == before


def test_other_settings_are_named_with_both_values(interrupted: Path) -> None:
    with pytest.raises(CheckpointError, match=r"other settings: batch_size was 4, is 2; seed was 0, is 3\nresume with"):
        run(interrupted, resume=True, config=replace(LOOP, seed=3, batch_size=2))
    with pytest.raises(CheckpointError, match=r'other settings: data was "mine", is "other"'):
        run(interrupted, resume=True, data="other")


def test_another_model_is_refused(interrupted: Path) -> None:
    with pytest.raises(CheckpointError, match="used other settings: model was"):
        run(interrupted, resume=True, record={**RECORD, "model": {"sizes": [4, 1]}})
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


def test_a_state_without_one_of_its_tensors(interrupted: Path) -> None:
    """Of a moment of the optimizer nothing else would tell: it begins at zero."""
    tensors = load((interrupted / STATE_FILE).read_bytes())
    for name in [name for name in tensors if name.startswith("optimizer/")]:
        rest = {key: value for key, value in tensors.items() if key != name}
        (interrupted / STATE_FILE).write_bytes(save(rest))
        with pytest.raises(CheckpointError, match=rf"is damaged: .* holds {len(rest)} tensors, {len(tensors)} were"):
            run(interrupted, resume=True)


@pytest.mark.parametrize("name", [STATE_JSON, STATE_FILE])
def test_a_state_with_a_file_missing(interrupted: Path, name: str) -> None:
    (interrupted / name).unlink()
    with pytest.raises(CheckpointError, match=f"nothing to resume in .*: no {name}"):
        run(interrupted, resume=True)


def test_an_output_that_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(OutputError, match="it exists and is not a directory"):
        run(tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "x"


@pytest.mark.parametrize(
    "bad", [{"steps": 0}, {"batch_size": 0}, {"ema": 1.0}, {"learning_rate": 0.0}, {"learning_rate": math.inf}]
)
def test_settings_that_make_no_run(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(bad))}"):
        replace(LOOP, **bad)


class AskedToStop:
    """A signal that comes after a number of questions."""

    def __init__(self, after: int, signum: int) -> None:
        self.left, self.number, self.listened = after, signum, False

    @property
    def signum(self) -> int | None:
        assert self.listened
        self.left -= 1
        return self.number if self.left <= 0 else None

    @contextmanager
    def listening(self) -> Iterator[None]:
        self.listened = True
        yield
        self.listened = False


@pytest.mark.parametrize(("after", "signum"), [(1, 2), (3, 15), (7, 1), (8, 2)])
def test_a_run_that_is_asked_to_stop_leaves_its_state_and_goes_on_bit_for_bit(
    tmp_path: Path, after: int, signum: int
) -> None:
    with pytest.raises(TrainingInterruptedError) as caught:
        run(tmp_path / "run", save_every=100, stop=AskedToStop(after, signum))
    assert caught.value.exit_code == 128 + signum
    assert caught.value.message == f"interrupted at step {after} of 8: the state is in '{tmp_path / 'run'}'"
    assert caught.value.hint == "go on with the same command and --resume"
    assert unfinished(tmp_path / "run") == (after, 8)
    assert f"not finished (stopped at step {after} of 8)" in load_checkpoint(tmp_path / "run").notes[0]
    task = Line()
    assert_same(run(tmp_path / "whole"), run(tmp_path / "run", resume=True, task=task))
    assert len(task.rates) == 8 - after
    for name in ("curve.csv",):  # all but the seconds
        one, other = ((tmp_path / folder / name).read_text().splitlines() for folder in ("whole", "run"))
        assert [row.rpartition(",")[0] for row in one] == [row.rpartition(",")[0] for row in other]
        assert one[0] == "step,loss,held_out_loss,learning_rate,seconds"
        assert [row.partition(",")[0] for row in one[1:]] == list("12345678")


def test_a_finished_loop_leaves_its_state_for_what_is_measured_afterwards(tmp_path: Path) -> None:
    run(tmp_path, save_every=100)
    assert unfinished(tmp_path) == (8, 8)
    task = Line()
    assert_same(run(tmp_path, resume=True, task=task), run(tmp_path / "again"))
    assert task.rates == []


def test_watching_changes_no_weight(tmp_path: Path) -> None:
    def sample(model: nn.Module) -> dict[str, bytes]:
        torch.rand(3)
        assert not model.training
        with torch.no_grad():
            model.get_parameter("weight").zero_()
        return {".txt": b"seen"}

    watched = run(tmp_path / "a", task=gan_task(), sample=sample_gan, sample_every=Every(steps=3))
    assert_same(run(tmp_path / "b", task=gan_task()), watched)
    line = run(tmp_path / "c", sample=sample, sample_every=Every(steps=3))
    assert_same(run(tmp_path / "d"), line)
    names = sorted(path.name for path in (tmp_path / "c").glob("samples-*"))
    assert names == ["samples-0000003.txt", "samples-0000006.txt", "samples-0000008.txt"]


def sample_gan(model: nn.Module) -> dict[str, bytes]:
    assert isinstance(model, Generator)
    reestimate_batch_norm(model, batches=1, seed=0)
    return {".txt": b""}


def test_another_run_in_the_same_folder_is_noticed_and_keeps_its_state(tmp_path: Path) -> None:
    def elsewhere(step: int, _steps: int, _losses: dict[str, float]) -> None:
        if step == 6:  # a second process has begun meanwhile, too
            (tmp_path / STATE_JSON).write_text(
                (tmp_path / STATE_JSON).read_text().replace('"writer": "', '"writer": "x')
            )

    with pytest.raises(CheckpointError, match="another training writes into"):
        run(tmp_path, on_step=elsewhere)
    assert '"writer": "x' in (tmp_path / STATE_JSON).read_text()


def test_another_number_of_threads_is_told(tmp_path: Path, interrupted: Path) -> None:
    told: list[str] = []
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        run(interrupted, resume=True, notify=told.append)
    finally:
        torch.set_num_threads(before)
    assert told == [f"threads was {before}, is {before + 1}: the weights can differ in their last bits"]


def test_samples_come_along_when_a_run_is_resumed(tmp_path: Path) -> None:
    def draw(_: nn.Module) -> dict[str, bytes]:
        return {".txt": b"x"}

    options: dict[str, Any] = {"sample": draw, "sample_every": Every(steps=2), "save_every": 100}
    with pytest.raises(TrainingInterruptedError):
        run(tmp_path, stop=AskedToStop(3, 2), **options)
    run(tmp_path, resume=True, **options)
    assert [path.name[8:15] for path in sorted(tmp_path.glob("samples-*"))] == [f"{n:07d}" for n in (2, 4, 6, 8)]


def test_state_is_saved_by_the_clock(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(
            Line(),
            LOOP,
            record=RECORD,
            output=tmp_path,
            resume=False,
            watch=Watch(save_every=Every(seconds=1e-9), on_step=stop_after(3)),
        )
    assert unfinished(tmp_path) == (2, 8)


@pytest.mark.parametrize(
    ("text", "every"),
    [
        ("100", Every(steps=100)),
        ("30s", Every(seconds=30)),
        ("5min", Every(seconds=300)),
        ("0.5h", Every(seconds=1800)),
    ],
)
def test_how_often(text: str, every: Every) -> None:
    assert parse_every("save_every", text) == every


@pytest.mark.parametrize("text", ["", "0", "-1", "0s", "5 parsecs", "1e3", "nan", "inf s", "1.5", "\u0663", "5m"])
def test_how_often_not(text: str) -> None:
    with pytest.raises(ConfigError, match=r"save_every is .*\nmust be a number of steps, or a time such as 30s"):
        parse_every("save_every", text)


def test_a_long_runs_curve_keeps_every_so_many_steps() -> None:
    curve = Curve(35_000)
    for step in range(1, 1001):
        curve.add(step, {"loss": 0.1} | ({"held_out_loss": 0.2} if step == 501 else {}), learning_rate=1, seconds=0)
    assert [int(row[0]) for row in curve.rows] == sorted({*range(4, 1001, 4), 501})
    again = Curve(35_000)
    again.read(curve.csv(), step=500)
    assert again.rows == curve.rows[:125]
    with pytest.raises(CheckpointError, match=r"curve\.csv beside the training state is damaged"):
        again.read(b"step,loss\nx,1\n", step=5)
    picture = curve.png()
    assert picture is not None
    assert picture[:4] == b"\x89PNG"


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
