"""Prepare the training of the language model."""

from __future__ import annotations

import hashlib
from pathlib import Path

from torch import nn

from aigc_models.data.kept_data import data_name
from aigc_models.data.text_data import TextData, load_text, standard_library_text
from aigc_models.evaluation.evaluation import STANDARD_LIBRARY, held_out_part
from aigc_models.evaluation.quality import text_quality
from aigc_models.families.lm import TransformerLM
from aigc_models.programs import lm_program
from aigc_models.torch_session import TorchSession
from aigc_models.training import recipes
from aigc_models.training.options import TrainOptions
from aigc_models.training.prepared import Measured, Prepared, loop_of
from aigc_models.training.tasks import LMTask
from aigc_runtime.errors import InputError
from aigc_runtime.generation.logits import SamplingParams
from aigc_runtime.pipelines import make_pipeline
from aigc_runtime.pipelines.text import TextPipeline

__all__ = ["prepare_lm"]

SAMPLE_TOKENS = 200
PROMPT_BYTES = 32
SHOWN_FILES = 5


def prepare_lm(data: Path | str | None, options: TrainOptions, samples: int) -> Prepared:
    """Prepare a byte-level language model on text: the standard library's sources, or the user's own.

    Raises:
        InputError: options of images, or unusable text.
    """
    for name, value in options.of_images().items():
        raise InputError(f"{name} is {value!r}", hint="means nothing to a language model: leave it out")
    text = standard_library_text() if data is None else load_text(data)
    config, loop = recipes.lm_model(), loop_of(recipes.lm_loop(), options)
    task = LMTask(config, loop, text, recipes.WINDOW, device=options.device)

    def finish(model: nn.Module) -> Measured:
        session = TorchSession(lm_program(_lm(model)).part)
        metrics = text_quality(session, text.held_out, samples=samples, seed=0)
        name = STANDARD_LIBRARY if data is None else held_out_part(data_name(data))
        return Measured(metrics=metrics, samples=samples, data=name)

    def sample(model: nn.Module) -> dict[str, bytes]:
        return {".txt": _continued(_lm(model), text).encode("utf-8", errors="replace")}

    return Prepared(
        task=task,
        loop=loop,
        record={"family": "lm", "model": config.to_dict()},
        notes=_notes(text),
        data_sha256=hashlib.sha256(text.train.tobytes() + b"|" + text.held_out.tobytes()).hexdigest(),
        finish=finish,
        sample=sample,
        text=text,
    )


def _notes(text: TextData) -> tuple[str, ...]:
    notes = [f"{len(text.train):,} bytes of text, {len(text.held_out):,} more held out"]
    if text.raw:
        notes.append("by its name it is no text, so its bytes are taken as they are")
    if text.seen:
        notes.append(f"{text.seen:,} bytes stand in two files, so that they are not held out")
    if text.left_out:
        more = f" and {len(text.left_out) - SHOWN_FILES} more" if len(text.left_out) > SHOWN_FILES else ""
        notes.append(f"not read, by their names no texts: {', '.join(map(repr, text.left_out[:SHOWN_FILES]))}{more}")
    return tuple(notes)


def _lm(model: nn.Module) -> TransformerLM:
    assert isinstance(model, TransformerLM)
    return model


def _continued(model: TransformerLM, text: TextData) -> str:
    """The start of the held-out text, continued."""
    program = lm_program(model)
    pipeline = make_pipeline(TorchSession(program.part), program.settings)
    assert isinstance(pipeline, TextPipeline)
    prompt = text.held_out[:PROMPT_BYTES].tobytes().decode("utf-8", errors="ignore") or " "
    sampling = SamplingParams(temperature=0.8)
    (result,) = pipeline.generate(prompt, max_new_tokens=SAMPLE_TOKENS, sampling=sampling, seed=0)
    return prompt + result.text + "\n"
