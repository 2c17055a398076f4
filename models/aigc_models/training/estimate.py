"""Estimate the cost of a training from one step on PyTorch's "meta" device, which counts and computes nothing."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from aigc_models.training.prepared import Prepared
from aigc_models.training.stylegan2_task import StyleGAN2Task
from aigc_models.training.tasks import ClassifierTask, GanTask, LMTask, UNetTask
from aigc_models.training.upscaler_task import UpscalerTask
from aigc_models.training.vae_task import VaeTask
from aigc_runtime.errors import InputError
from aigc_runtime.system.host_memory import available_memory

__all__ = ["Cost", "check_cost", "step_cost"]

COPIES = 5
"""Of every weight: itself, its gradient, two moments of the optimizer, a moving average."""
META = "meta"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of one training step.

    Attributes:
        flops: floating-point operations, forward and backward.
        memory_bytes: of activations kept for the backward pass, and of weights with all their copies.
    """

    flops: int
    memory_bytes: int


def check_cost(prepared: Prepared, device: str) -> str:
    """Describe the estimated time of a training; one that does not fit into memory is an error.

    Raises:
        InputError: it needs more memory than the device has left.
    """
    cost = step_cost(prepared.task, prepared.loop.batch_size)
    needs = f"about {_size(cost.memory_bytes)} of memory"
    free = torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else available_memory()
    if free is not None and cost.memory_bytes > free:
        raise InputError(
            f"a step of {prepared.loop.batch_size} rows needs {needs}, and {_size(free)} are free",
            hint="make it smaller with --batch-size, or --size for pictures",
        )
    if device != "cpu":
        return f"{prepared.loop.steps:,} steps of {prepared.loop.batch_size} rows, {needs}"
    hours = cost.flops * prepared.loop.steps / _speed() / 3600
    shown = f"{hours:.0f} hours" if hours >= 10 else f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.0f} minutes"
    shown = "a minute or less" if hours * 60 < 1 else f"about {shown}"
    return f"{prepared.loop.steps:,} steps of {prepared.loop.batch_size} rows, {shown} on this machine, {needs}"


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def step_cost(task: Any, rows: int) -> Cost:
    """Count one step of `rows` rows."""
    graphs = _GRAPHS[type(task)]
    modules = [copy.deepcopy(module).to(META).train() for module in (task.model, *task.extra.values())]
    weights = sum(p.numel() * p.element_size() for module in modules for p in module.parameters())
    flops, kept = 0, 0
    for graph in graphs:
        seen = _Kept(modules)
        with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(seen.pack, _same):
            torch.autograd.backward(graph(task, modules, rows))
        flops += counter.get_total_flops()
        kept = max(kept, seen.size_bytes)
    return Cost(flops=flops, memory_bytes=kept + COPIES * weights)


class _Kept:
    """Counts what autograd keeps, once for every storage; weights are counted elsewhere."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.storages: dict[int, Tensor] = {_storage(p): p for module in modules for p in module.parameters()}
        self.size_bytes = 0

    def pack(self, tensor: Tensor) -> Tensor:
        if _storage(tensor) not in self.storages:
            self.storages[_storage(tensor)] = tensor  # kept alive, so that no other storage takes its place
            self.size_bytes += tensor.untyped_storage().nbytes()
        return tensor


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _labels(rows: int) -> Tensor:
    return torch.zeros(rows, dtype=torch.int64, device=META)


def _unet(task: UNetTask, modules: list[nn.Module], rows: int) -> Tensor:
    labels = None if task.config.num_class_embeds is None else _labels(rows)
    shape = (rows, *task.data.train.shape[1:])
    out: Tensor = modules[0](torch.empty(shape, device=META), torch.empty(rows, device=META), labels)
    return out.square().mean()


def _gan_discriminator(task: GanTask, modules: list[nn.Module], rows: int) -> Tensor:
    images = torch.empty((2 * rows, *task.data.train.shape[1:]), device=META)
    out: Tensor = modules[1](images, _labels(2 * rows))
    return out.mean()


def _gan_generator(task: GanTask, modules: list[nn.Module], rows: int) -> Tensor:
    latents = torch.empty(rows, task.generator.config.latent_size, device=META)
    out: Tensor = modules[1](modules[0](latents, _labels(rows)), _labels(rows))
    return out.mean()


def _stylegan2_discriminator(task: StyleGAN2Task, modules: list[nn.Module], rows: int) -> Tensor:
    images = torch.empty((2 * rows, *task.data.train.shape[1:]), device=META)
    out: Tensor = modules[1](images, _style_labels(task, 2 * rows))
    return out.mean()


def _stylegan2_generator(task: StyleGAN2Task, modules: list[nn.Module], rows: int) -> Tensor:
    latents, labels = torch.empty(rows, task.generator.config.z_size, device=META), _style_labels(task, rows)
    out: Tensor = modules[1](modules[0](latents, labels), labels)
    return out.mean()


def _style_labels(task: StyleGAN2Task, rows: int) -> Tensor | None:
    return None if task.generator.config.num_classes is None else _labels(rows)


def _lm(task: LMTask, modules: list[nn.Module], rows: int) -> Tensor:
    ids = torch.zeros(rows, task.window, dtype=torch.int64, device=META)
    out: Tensor = modules[0](ids).logits
    return F.cross_entropy(out.flatten(0, 1), ids.flatten())


def _upscaler(task: UpscalerTask, modules: list[nn.Module], rows: int) -> Tensor:
    side = task.patch // task.config.scale
    large: Tensor = modules[0](torch.empty(rows, task.config.channels, side, side, device=META))
    return _and_game(large, modules)


def _vae(task: VaeTask, modules: list[nn.Module], rows: int) -> Tensor:
    decoded: Tensor = modules[0](torch.empty((rows, *task.data.train.shape[1:]), device=META))
    return _and_game(decoded, modules)


def _and_game(pictures: Tensor, modules: list[nn.Module]) -> Tensor:
    """A loss that has a patch discriminator see the pictures, and both sides of the game, where there is one."""
    seen = [] if len(modules) == 1 else [modules[1](torch.cat([pictures] * 3)).mean()]
    return sum(seen, pictures.mean())


def _classifier(task: ClassifierTask, modules: list[nn.Module], rows: int) -> Tensor:
    out: Tensor = modules[0](torch.empty((rows, *task.data.train.shape[1:]), device=META))
    return F.cross_entropy(out, _labels(rows))


_GRAPHS: dict[type, tuple[Callable[[Any, list[nn.Module], int], Tensor], ...]] = {
    UNetTask: (_unet,),
    GanTask: (_gan_discriminator, _gan_generator),
    StyleGAN2Task: (_stylegan2_discriminator, _stylegan2_generator),
    LMTask: (_lm,),
    ClassifierTask: (_classifier,),
    UpscalerTask: (_upscaler,),
    VaeTask: (_vae,),
}
"""Task -> the graphs that a step goes through, one after the other."""


def _speed() -> float:
    """Measure floating-point operations a second in a middling convolution, forward and backward."""
    rng = torch.Generator().manual_seed(0)  # the training's own draws stay what they are
    x = torch.rand(8, 32, 32, 32, generator=rng).requires_grad_()
    weight = torch.rand(32, 32, 3, 3, generator=rng).requires_grad_()
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        torch.autograd.backward(F.conv2d(x, weight, padding=1).sum())
        best = min(best, time.perf_counter() - started)
    return 3 * 2 * 8 * 32 * 32 * 32 * 32 * 9 / best
