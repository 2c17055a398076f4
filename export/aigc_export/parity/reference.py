"""Compute with PyTorch the arrays that a bundle carries as its proof."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from aigc_models.data.text_data import standard_library_text
from aigc_models.program import Program
from aigc_runtime.core.session import Session
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import CheckpointError, EngineError
from aigc_runtime.generation.schedules import fitting_steps
from aigc_runtime.pipelines import make_pipeline
from aigc_runtime.pipelines.embeddings import CONTEXT_TOKENS
from aigc_runtime.pipelines.replay import run_request
from aigc_runtime.pipelines.settings import DiffusionSettings, GanSettings, TextSettings
from aigc_runtime.pipelines.text import text_tokenizer

__all__ = ["Case", "Generation", "Step", "make_cases", "make_generation"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step: arrays by graph name."""

    inputs: dict[str, Array]
    outputs: dict[str, Array]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Steps that ran one after the other on one carried state."""

    name: str
    steps: tuple[Step, ...]


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A request to the pipeline, keyword arguments of its `generate`, and the arrays of its result by name."""

    request: dict[str, Any]
    outputs: dict[str, Array]


def make_cases(session: Session, program: Program, *, seed: int) -> tuple[Case, ...]:
    """Run seeded inputs through PyTorch: several shapes, and for carried state several steps.

    Args:
        session: PyTorch's; its dimensions bound the shapes, so that an engine for fewer of them can be proven.
        program: the model.
        seed: of the inputs.
    """
    rng = np.random.default_rng(seed)
    if isinstance(program.settings, TextSettings):
        plans = _text_inputs(session, program.settings, rng)
    elif isinstance(program.settings, DiffusionSettings):
        plans = _diffusion_inputs(session, program.settings, rng)
    else:
        plans = _gan_inputs(session, program.settings, rng)
    cases = []
    for name, inputs in plans:
        state = session.new_state(len(next(iter(inputs[0].values()))))
        steps = [Step(inputs=feeds, outputs=session.run(feeds, state)) for feeds in inputs]
        cases.append(Case(name=name, steps=tuple(steps)))
    return tuple(cases)


Plan = tuple[str, list[dict[str, Array]]]


def _fit(session: Session, dim: str, size: int) -> int:
    """Choose the size nearest to `size` that the session takes."""
    found = session.interface.dim(dim)
    return size if found is None else found.nearest(size)


def _batches(session: Session, *rows: int) -> tuple[int, ...]:
    """List numbers of rows that the session takes, each once."""
    return tuple(dict.fromkeys(_fit(session, "batch", n) for n in rows))


def _images(session: Session, count: int) -> int:
    """Choose how many images to request: pipelines cut them into runs, of which the last may be of one row."""
    return count if _fit(session, "batch", 1) == 1 else _fit(session, "batch", count)


def _text_inputs(session: Session, settings: TextSettings, rng: np.random.Generator) -> Iterator[Plan]:
    """A prompt alone and a left-padded pair, each with tokens decoded one by one after it.

    The tokens are those of a real text: on noise a language model computes what nobody will ask of it, and an engine
    of lower precision would be compared with that.
    """
    text = text_tokenizer(settings).encode(standard_library_text().held_out.tobytes().decode("utf-8"))
    decoded = min(3, settings.context_length // 2)
    longest = _fit(session, "sequence", min(48, settings.context_length // 2))
    longest = max(1, min(longest, _fit(session, "past", longest + decoded) - decoded))
    for name, rows in zip(("single", "ragged"), _batches(session, 1, 2), strict=False):
        pad = [0] * rows
        if name == "ragged":
            pad[-1] = -(-longest // 3) if 1 < longest < 3 else longest // 3
        starts = rng.integers(0, len(text) - longest - decoded, size=len(pad))
        ids = np.stack([text[s : s + longest + decoded] for s in starts]).astype(np.int64)
        pad_length = np.array(pad, dtype=np.int64)
        steps = [{"input_ids": ids[:, :longest], "pad_length": pad_length}]
        steps += [{"input_ids": ids[:, i : i + 1], "pad_length": pad_length} for i in range(longest, longest + decoded)]
        yield name, steps


def _diffusion_inputs(session: Session, settings: DiffusionSettings, rng: np.random.Generator) -> Iterator[Plan]:
    """Batches at the noisiest, a middle and the cleanest step; a second size where the model takes several."""
    c, h, w = settings.sample_shape
    h, w = _fit(session, "height", h), _fit(session, "width", w)
    batches = _batches(session, 1, 3)
    sizes = [(rows, h, w) for rows in batches]
    if (dim := session.interface.dim("height")) is not None:
        sizes.append((batches[0], dim.nearest(h + dim.multiple_of), w))
    last = settings.schedule.num_train_timesteps - 1
    for rows, height, width in dict.fromkeys(sizes):
        feeds: dict[str, Array] = {
            "sample": rng.standard_normal((rows, c, height, width), dtype=np.float32),
            "timestep": np.linspace(last, 0, rows).round().astype(np.float32),
        }
        for tensor in session.interface.inputs:
            if tensor.name == "class_labels":
                feeds[tensor.name] = rng.integers(0, tensor.high or 1, size=rows, dtype=np.int64)
            elif tensor.name == "encoder_hidden_states":
                feeds[tensor.name] = rng.standard_normal(
                    (rows, _fit(session, "tokens", CONTEXT_TOKENS), int(tensor.shape[2])), dtype=np.float32
                )
        yield f"batch{rows}-{height}x{width}", [feeds]


def _gan_inputs(session: Session, settings: GanSettings, rng: np.random.Generator) -> Iterator[Plan]:
    for rows in _batches(session, 1, 4):
        feeds: dict[str, Array] = {
            "latents": rng.standard_normal((rows, settings.latent_size), dtype=np.float32),
            "class_labels": rng.integers(0, settings.num_classes, size=rows, dtype=np.int64),
        }
        yield f"batch{rows}", [feeds]


def make_generation(session: Session, program: Program, *, seed: int) -> Generation:
    """Let PyTorch generate once, through the same pipeline as the bundle will.

    Args:
        session: PyTorch's; its dimensions bound the request.
        program: the model.
        seed: of the request.

    Raises:
        CheckpointError: the model gives NaN or infinity.
    """
    request: dict[str, Any]
    if isinstance(program.settings, TextSettings):
        fitting = _fitting_prompts(program.settings)
        prompts = [fitting[i % len(fitting)] for i in range(_fit(session, "batch", 2))]
        request = {"prompts": prompts, "max_new_tokens": 48, "seed": seed}
    elif isinstance(program.settings, DiffusionSettings):
        request = _diffusion_request(session, program.settings, seed)
    else:
        request = {"seed": seed, "class_labels": [i % program.settings.num_classes for i in range(_images(session, 8))]}
    try:
        outputs = run_request(make_pipeline(session, program.settings), request)
    except EngineError as err:
        raise CheckpointError(
            f"PyTorch cannot generate with this model: {err.message}",
            hint="check the weights, and the noise schedule in config.json",
        ) from err
    return Generation(request=request, outputs=outputs)


def _fitting_prompts(settings: TextSettings) -> list[str]:
    """Beginnings of two prompts, of different lengths if the context allows it, with room for half a context behind."""
    tokenizer, most = text_tokenizer(settings), max(1, settings.context_length // 2)
    prompts = []
    for prompt in ("def main(", "import "):
        lengths = range(len(prompt), 0, -1)
        prompts.append(prompt[: next((n for n in lengths if len(tokenizer.encode(prompt[:n])) <= most), 1)])
    if most > 1 and len(prompts[0]) == len(prompts[1]):
        prompts[1] = prompts[1][:-1]
    return prompts


def _diffusion_request(session: Session, settings: DiffusionSettings, seed: int) -> dict[str, Any]:
    """Few steps of the default sampler, with a context drawn at random where the model takes one."""
    request: dict[str, Any] = {"seed": seed, "steps": fitting_steps(settings.schedule, 10)}
    if settings.num_classes is not None:
        request["class_labels"] = [i % settings.num_classes for i in range(_images(session, 4))]
    else:
        request["batch"] = _images(session, 2)
    _, h, w = settings.sample_shape
    size = [_fit(session, "height", h), _fit(session, "width", w)]
    if size != [h, w]:
        request["size"] = size
    for tensor in session.interface.inputs:
        if tensor.name == "encoder_hidden_states":
            rows = len(request.get("class_labels", ())) or request["batch"]
            shape = (rows, _fit(session, "tokens", CONTEXT_TOKENS), int(tensor.shape[2]))
            context = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
            request[tensor.name] = context
            if settings.default_guidance_scale != 1:
                request[f"null_{tensor.name}"] = np.zeros((1, *shape[1:]), dtype=np.float32)
    return request
