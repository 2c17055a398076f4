"""The training step of StyleGAN2: its losses by hand, its schedule of regularizers, resumed bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from aigc_models.data.image_data import ImageData
from aigc_models.families.stylegan2.config import StyleGAN2Config
from aigc_models.families.stylegan2.discriminator import ResidualDiscriminatorConfig
from aigc_models.training.every import Every
from aigc_models.training.loop import LoopConfig, OnStep, Watch, train
from aigc_models.training.state import STATE_FILE
from aigc_models.training.stylegan2_task import Regularization, StyleGAN2Task, lazy_adam

LOOP = LoopConfig(steps=8, batch_size=4, learning_rate=2e-3, warmup=1, final_rate=1.0, max_grad_norm=100.0, ema=0.9)
CHANNELS = (4, 3)


def images(classes: int = 3) -> ImageData:
    rng = torch.Generator().manual_seed(0)
    x, y = torch.rand(12, 1, 8, 8, generator=rng) * 2 - 1, torch.arange(12) % classes
    names = tuple("abc"[:classes])
    return ImageData(train=x, train_labels=y, held_out=x, held_out_labels=y, class_names=names)


def make(
    classes: int | None = 3, loop: LoopConfig = LOOP, data: ImageData | None = None, **regularization: float
) -> StyleGAN2Task:
    torch.manual_seed(0)
    chosen = {"r1_every": 3, "path_every": 2, **regularization}
    return StyleGAN2Task(
        StyleGAN2Config(z_size=4, w_size=4, num_classes=classes, mapping_layers=1, channels=CHANNELS, image_channels=1),
        ResidualDiscriminatorConfig(channels=CHANNELS, image_channels=1, num_classes=classes),
        loop,
        data or images(classes or 1),
        Regularization(**chosen),  # type: ignore[arg-type]
    )


def copies(task: StyleGAN2Task) -> dict[str, torch.Tensor]:
    modules = {"model": task.model, **task.extra}
    return {f"{n}/{k}": v.clone() for n, m in modules.items() for k, v in m.state_dict().items()}


@pytest.mark.parametrize("classes", [3, None])
def test_the_losses_are_those_of_the_paper(classes: int | None) -> None:
    task, again = make(classes, mixing=0.0), make(classes, mixing=0.0)
    found = task.step(torch.Generator().manual_seed(5))

    rng = torch.Generator().manual_seed(5)
    rows = torch.randint(12, (4,), generator=rng)
    x = again.data.train[rows]
    y = again.data.train_labels[rows] if classes else None

    def fake(count: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        z = torch.randn(count, 4, generator=rng)
        labels = torch.randint(3, (count,), generator=rng) if classes else None
        torch.randint(1, 4, (), generator=rng)  # where a mixed style would begin, and whose it would be
        torch.randn(count, 4, generator=rng)
        torch.rand((), generator=rng)
        noise = [torch.randn(count, 1, side, side, generator=rng) for side in (4, 8, 8)]
        w = again.generator.mapping(z, labels)
        return again.generator.synthesis(w[:, None].repeat(1, 4, 1), noise), labels

    with torch.no_grad():
        generated, labels = fake(4)
    sigmoid = torch.sigmoid(again.discriminator(x, y)), torch.sigmoid(again.discriminator(generated, labels))
    expected = -(sigmoid[0].log().mean() + (1 - sigmoid[1]).log().mean())  # Goodfellow 2014, eq. 1
    assert found["discriminator"] == pytest.approx(expected.item(), rel=1e-5)

    # One step of Adam with beta_1 = 0 moves every weight by its rate, against the sign of its gradient.
    before = again.discriminator.output.weight.detach().clone()
    (gradient,) = torch.autograd.grad(expected, again.discriminator.output.weight, retain_graph=True)
    with torch.no_grad():
        images_of_generator, its_labels = fake(4)
    rate = 2e-3 * 3 / 4  # c = k / (k + 1) of a regularizer every 3 steps
    torch.testing.assert_close(stepped(again, expected), before - rate * gradient.sign(), rtol=1e-4, atol=1e-6)
    logits = again.discriminator(images_of_generator, its_labels)
    assert found["generator"] == pytest.approx(-torch.sigmoid(logits).log().mean().item(), rel=1e-4)


def stepped(task: StyleGAN2Task, loss: torch.Tensor) -> torch.Tensor:
    task._descend("discriminator", task.discriminator, loss)
    return task.discriminator.output.weight.detach()


def test_r1_is_that_of_real_images_and_counts_as_often_as_it_is_left_out() -> None:
    task = make(r1_weight=0.7)
    x, y = task._real(torch.Generator().manual_seed(1))
    before = {name: p.detach().clone() for name, p in task.discriminator.named_parameters()}
    inputs = x.clone().requires_grad_()
    slopes = [torch.autograd.grad(task.discriminator(inputs, y)[n], inputs, create_graph=True)[0] for n in range(4)]
    # The spread of the batch ties its images together: the slope of the sum is what one image changes in all logits.
    expected = 0.7 / 2 * sum(slopes).square().sum(dim=(1, 2, 3)).mean()  # type: ignore[union-attr]
    torch.autograd.backward(3 * expected)
    gradients = {name: p.grad.clone() for name, p in task.discriminator.named_parameters() if p.grad is not None}
    task._r1_step(x, y)
    assert task.progress.r1.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, parameter in task.discriminator.named_parameters():
        if (gradient := gradients.get(name)) is not None and gradient.abs().min() > 1e-5:
            moved = before[name] - 2e-3 * 3 / 4 * gradient.sign()
            torch.testing.assert_close(parameter.detach(), moved, rtol=1e-4, atol=1e-6, msg=name)


def test_regularizers_are_taken_now_and_then() -> None:
    task = make()
    rng = torch.Generator().manual_seed(0)
    found = [task.step(rng) for _ in range(7)]
    r1 = [losses["r1"] for losses in found]
    path = [losses["path_length"] for losses in found]
    assert [n for n in range(1, 7) if r1[n] != r1[n - 1]] == [3, 6]
    assert [n for n in range(1, 7) if path[n] != path[n - 1]] == [2, 4, 6]
    assert all(value > 0 for value in (*r1, *path))
    assert task.progress.path_mean > 0
    steps = {name: {int(s["step"]) for s in o.state.values()} for name, o in task.optimizers.items()}
    assert max(steps["discriminator"]) == 7 + 3
    assert max(steps["generator"]) == 7 + 4


def test_adams_rates_make_up_for_the_steps_of_a_regularizer() -> None:
    adam = lazy_adam([torch.nn.Parameter(torch.zeros(1))], 0.0025, 16)
    assert adam.defaults["lr"] == pytest.approx(0.0025 * 16 / 17)
    # After 17 steps that stand for 16, as much is left of the squared gradients as after 16.
    assert adam.defaults["betas"][1] ** 17 == pytest.approx(0.99**16)
    assert adam.defaults["betas"][0] == 0


def test_styles_are_mixed_within_a_class() -> None:
    task = make(mixing=1.0)
    rng = torch.Generator().manual_seed(2)
    w, labels = torch.zeros(5, 4), torch.tensor([0, 1, 2, 0, 1])
    styles = task._styles(w, labels, rng)
    rng = torch.Generator().manual_seed(2)
    first, z = int(torch.randint(1, 4, (), generator=rng)), torch.randn(5, 4, generator=rng)
    assert (styles[:, :first] == 0).all()
    torch.testing.assert_close(styles[:, first], task.generator.mapping(z, labels))
    never = make(mixing=0.0)._styles(w, labels, torch.Generator().manual_seed(2))
    assert (never == 0).all()


class Stopped(Exception):
    pass


def stop_after(step: int) -> OnStep:
    def on_step(done: int, _steps: int, _losses: dict[str, float]) -> None:
        if done == step:
            raise Stopped

    return on_step


def run(task: StyleGAN2Task, output: Path, *, resume: bool = False, on_step: OnStep | None = None) -> torch.nn.Module:
    watch = Watch(save_every=Every(steps=3), on_step=on_step)
    return train(task, LOOP, record={"family": "stylegan2"}, output=output, resume=resume, watch=watch).result


def test_an_interrupted_run_ends_bit_for_bit_as_an_unbroken_one(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(make(), tmp_path / "part", on_step=stop_after(5))
    whole, resumed = make(), make()
    average = run(whole, tmp_path / "whole")
    found = run(resumed, tmp_path / "part", resume=True)
    for name, tensor in copies(whole).items():
        assert torch.equal(tensor, copies(resumed)[name]), name
    for name, tensor in average.state_dict().items():
        assert torch.equal(tensor, found.state_dict()[name]), name


def test_what_the_regularizers_carry_is_needed_to_go_on(tmp_path: Path) -> None:
    """The comparison above can fail: without the count of steps, regularizers fall on other steps."""
    with pytest.raises(Stopped):
        run(make(), tmp_path / "part", on_step=stop_after(5))
    kept = load_file(tmp_path / "part" / STATE_FILE)
    assert int(kept["module/progress/steps"]) == 3
    assert kept["module/progress/path_mean"] > 0
    whole, other = make(), make()
    rng = torch.Generator().manual_seed(0)
    for _ in range(2):
        whole.step(rng)
    rng = torch.Generator().manual_seed(0)
    other.progress.steps += 1
    for _ in range(2):
        other.step(rng)
    assert not torch.equal(copies(whole)["discriminator/output.weight"], copies(other)["discriminator/output.weight"])


@pytest.mark.slow
def test_a_few_steps_teach_the_discriminator_and_then_the_generator() -> None:
    """Real images are of one gray that no fresh generator makes; then it comes near."""
    data = images(1)
    gray = ImageData(
        train=torch.full_like(data.train, 0.8),
        train_labels=data.train_labels,
        held_out=data.held_out,
        held_out_labels=data.held_out_labels,
        class_names=data.class_names,
    )
    task = make(None, LoopConfig(steps=60, batch_size=8, learning_rate=1e-2, max_grad_norm=100.0), gray)
    rng = torch.Generator().manual_seed(0)
    latents = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))

    def distance() -> float:
        with torch.no_grad():
            return float((task.generator(latents) - 0.8).abs().mean())

    first = distance()
    losses = [task.step(rng)["discriminator"] for _ in range(60)]
    assert min(losses) < 0.8 * losses[0]
    assert distance() < 0.7 * first


def test_w_follows_its_mean_and_gives_no_held_out_loss() -> None:
    task = make()
    assert (task.generator.mapping.w_avg == 0).all()
    task.step(torch.Generator().manual_seed(0))
    assert (task.generator.mapping.w_avg != 0).any()
    assert task.held_out_loss(task.model) is None
