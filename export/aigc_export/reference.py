"""What PyTorch computes: the arrays that a bundle carries as its proof."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from aigc_models.spec import ExportSpec
from aigc_models.training.data import standard_library_text
from aigc_runtime.manifest import DiffusionSettings, GanSettings, TextSettings
from aigc_runtime.pipelines import make_pipeline
from aigc_runtime.replay import run_request
from aigc_runtime.session import Session
from aigc_runtime.tensors import Array
from aigc_runtime.tokenizers import make_tokenizer

__all__ = ["Case", "Generation", "Step", "make_cases", "make_generation"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """Arrays by graph name."""

    inputs: dict[str, Array]
    outputs: dict[str, Array]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Steps that ran one after the other on one carried state."""

    name: str
    steps: tuple[Step, ...]


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A request to the pipeline and its result."""

    request: dict[str, Any]
    output: Array


def make_cases(session: Session, spec: ExportSpec, *, seed: int) -> tuple[Case, ...]:
    """Run seeded inputs through PyTorch: several shapes, and for carried state several steps.

    Args:
        session: PyTorch's.
        spec: the model.
        seed: of the inputs.
    """
    rng = np.random.default_rng(seed)
    if isinstance(spec.settings, TextSettings):
        plans = _text_inputs(spec.settings, rng)
    elif isinstance(spec.settings, DiffusionSettings):
        plans = _diffusion_inputs(spec, spec.settings, rng)
    else:
        plans = _gan_inputs(spec.settings, rng)
    cases = []
    for name, inputs in plans:
        state = session.new_state(len(next(iter(inputs[0].values()))))
        steps = [Step(inputs=feeds, outputs=session.run(feeds, state)) for feeds in inputs]
        cases.append(Case(name=name, steps=tuple(steps)))
    return tuple(cases)


Plan = tuple[str, list[dict[str, Array]]]


def _text_inputs(settings: TextSettings, rng: np.random.Generator) -> Iterator[Plan]:
    """A prompt alone and a left-padded pair, each with tokens decoded one by one after it.

    The tokens are those of a real text: on noise a language model computes what nobody will ask of it, and an engine
    of lower precision would be judged by that.
    """
    text = make_tokenizer(settings.tokenizer).encode(standard_library_text().held_out.tobytes().decode("utf-8"))
    longest, decoded = min(48, settings.context_length // 2), 3
    for name, pad in (("single", [0]), ("ragged", [0, longest // 3])):
        starts = rng.integers(0, len(text) - longest - decoded, size=len(pad))
        ids = np.stack([text[s : s + longest + decoded] for s in starts]).astype(np.int64)
        pad_length = np.array(pad, dtype=np.int64)
        steps = [{"input_ids": ids[:, :longest], "pad_length": pad_length}]
        steps += [{"input_ids": ids[:, i : i + 1], "pad_length": pad_length} for i in range(longest, longest + decoded)]
        yield name, steps


def _diffusion_inputs(spec: ExportSpec, settings: DiffusionSettings, rng: np.random.Generator) -> Iterator[Plan]:
    """Batches at the noisiest, a middle and the cleanest step; a second size where the model takes several."""
    c, h, w = settings.sample_shape
    dims = {d.name: d for d in spec.dims}
    sizes = [(1, h, w), (3, h, w)]
    if "height" in dims:
        sizes.append((1, h + dims["height"].multiple_of, w))
    last = settings.schedule.num_train_timesteps - 1
    for rows, height, width in sizes:
        feeds: dict[str, Array] = {
            "sample": rng.standard_normal((rows, c, height, width), dtype=np.float32),
            "timestep": np.linspace(last, 0, rows).round().astype(np.float32),
        }
        for tensor in spec.inputs:
            if tensor.name == "class_labels":
                feeds[tensor.name] = rng.integers(0, tensor.high or 1, size=rows, dtype=np.int64)
            elif tensor.name == "encoder_hidden_states":
                feeds[tensor.name] = rng.standard_normal((rows, 7, int(tensor.shape[2])), dtype=np.float32)
        yield f"batch{rows}-{height}x{width}", [feeds]


def _gan_inputs(settings: GanSettings, rng: np.random.Generator) -> Iterator[Plan]:
    for rows in (1, 4):
        feeds: dict[str, Array] = {
            "latents": rng.standard_normal((rows, settings.latent_size), dtype=np.float32),
            "class_labels": rng.integers(0, settings.num_classes, size=rows, dtype=np.int64),
        }
        yield f"batch{rows}", [feeds]


def make_generation(session: Session, spec: ExportSpec, *, seed: int) -> Generation:
    """Let PyTorch generate once, through the same pipeline as the bundle will.

    Args:
        session: PyTorch's.
        spec: the model.
        seed: of the request.
    """
    request: dict[str, Any]
    if isinstance(spec.settings, TextSettings):
        request = {"prompts": ["def main(", "import "], "max_new_tokens": 48, "seed": seed}
    elif isinstance(spec.settings, DiffusionSettings):
        request = {"seed": seed, "steps": min(10, spec.settings.schedule.num_train_timesteps)}
        if spec.settings.num_classes is not None:
            request["class_labels"] = [i % spec.settings.num_classes for i in range(4)]
        else:
            request["batch"] = 2
    else:
        request = {"seed": seed, "class_labels": [i % spec.settings.num_classes for i in range(8)]}
    return Generation(request=request, output=run_request(make_pipeline(session, spec.settings), request))
