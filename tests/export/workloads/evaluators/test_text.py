"""Language models with tokenizers of their own: measures per token and per byte, warnings, and how much is measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from aigc_export.parity.reference import make_cases, make_generation
from aigc_export.workloads import get_workload
from aigc_export.workloads.evaluate import make_evaluator, program_evaluation
from aigc_models.evaluation.paired import Scores
from aigc_models.families.lm import TransformerLM
from aigc_models.families.lm_config import LMConfig
from aigc_models.program import Program
from aigc_models.programs import lm_program
from aigc_models.separate_prefill import with_separate_prefill
from aigc_models.text_assets import NO_TEXT, TextAssets
from aigc_models.torch_session import TorchSession, open_torch
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.tensors import Array
from aigc_runtime.generation.tokenizers import TokenizerInfo

from ....runtime.generation.tokenizers.makers import byte_level

TEXT = get_workload("text")


def program(text: TextAssets, vocab_size: int = 400, *, scale: float = 1.0) -> Program:
    torch.manual_seed(0)
    config = LMConfig(vocab_size=vocab_size, context_length=64, d_model=16, n_layers=1, n_heads=2, d_ff=24)
    model = TransformerLM(config).eval()
    with torch.no_grad():
        model.get_parameter("lm_head.weight").mul_(scale)
    return lm_program(model, text=text)


def with_tokenizer(*, scale: float = 1.0) -> Program:
    files = {"tokenizer.json": byte_level(bos=True)}
    info = TokenizerInfo(kind="huggingface", file="tokenizer.json")
    return program(TextAssets(tokenizer=info, bos_token_id=1, files=files), scale=scale)


def measured(made: Program, eval_data: Path | None = None, *, samples: int = 6) -> Scores:
    evaluation = program_evaluation(made, eval_data)
    opened = open_torch(made)
    return make_evaluator(TEXT, opened, made.settings, evaluation=evaluation, samples=samples, roles=made.engines)(
        opened
    )


def test_per_token_and_per_byte(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the quick brown fox jumps over the lazy dog. " * 300)
    found = measured(with_tokenizer(scale=0.0), tmp_path / "a.txt")
    perplexity, bits = found.quality
    # All tokens are equally likely: the perplexity is the vocabulary, and a byte costs its share of a token.
    assert (perplexity.metric, perplexity.limit) == ("perplexity", None)
    assert perplexity.reference == perplexity.bundle == pytest.approx(400)
    tokenizer_bytes = 45 * 300 / len(_ids("the quick brown fox jumps over the lazy dog. " * 300))
    assert bits.reference == pytest.approx(math.log2(400) / tokenizer_bytes, rel=0.03)
    assert {m.data for m in found.paired} == {"'a.txt'"}
    assert [m.value for m in found.paired] == [0.0, 0.0, 1.0]
    assert {m.samples for m in found.paired} == {6}


def _ids(text: str) -> list[int]:
    from tokenizers import Tokenizer

    return list(Tokenizer.from_str(byte_level().decode()).encode(text).ids)


def test_a_model_that_only_guesses_is_told() -> None:
    (warning,) = measured(with_tokenizer(scale=50.0)).warnings
    assert "no better than guessing among 400 tokens" in warning
    assert "may not belong together" in warning
    # Bytes belong to every model over bytes, and ids that were drawn to none.
    for other in (
        program(TextAssets(tokenizer=TokenizerInfo(kind="bytes")), 256, scale=50.0),
        program(NO_TEXT, scale=50.0),
    ):
        assert measured(other, samples=2).warnings == ()


@pytest.mark.parametrize("text", [with_tokenizer, lambda: program(NO_TEXT)])
def test_reference_inputs_are_tokens_of_the_model(text: type) -> None:
    made: Program = text()
    sessions = open_torch(made)
    ids = np.concatenate([s.inputs["input_ids"].ravel() for c in make_cases(sessions, made, seed=0) for s in c.steps])
    assert len(set(ids.tolist())) > 20
    assert 0 <= ids.min() <= ids.max() < 400
    generation = make_generation(sessions, made, seed=0)
    first, second = generation.request["prompts"]
    kind = made.settings.tokenizer.kind
    assert isinstance(first, str if kind == "huggingface" else list)
    assert len(first) > len(second) > 0
    assert make_generation(sessions, made, seed=1).request["prompts"] != [first, second]
    assert len(generation.outputs["tokens"]) > 4


def test_large_models_are_measured_on_fewer_windows() -> None:
    counts = [TEXT.default_samples(n) for n in (0, 2 * 10**6, 135 * 10**6, 10**9, 10**12)]
    assert counts == [200, 200, 16, 16, 16]


@pytest.mark.parametrize(
    ("kind", "expected"), [("gan", [200, 16, 4]), ("diffusion", [200, 16, 4]), ("text_to_image", [4, 4, 2])]
)
def test_large_models_are_measured_on_fewer_pictures(kind: str, expected: list[int]) -> None:
    assert [get_workload(kind).default_samples(n) for n in (10**6, 3 * 10**7, 10**9)] == expected


@pytest.mark.parametrize("worse", ["prefill", "decode"])
def test_of_two_engines_the_worse_counts(worse: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the quick brown fox jumps over the lazy dog. " * 300)
    made = with_separate_prefill(with_tokenizer())
    evaluation = program_evaluation(made, tmp_path / "a.txt")
    exact = open_torch(made)

    def rounded(values: Mapping[str, Array]) -> dict[str, Array]:
        found = dict(call(values))
        return {**found, "logits": np.round(found["logits"] * 4) / 4}

    call = TorchSession(made.parts[worse]).call
    low = ArraySession(rounded, made.parts[worse].interface)
    candidate = OpenProgram({**exact.sessions, worse: low}, exact.states, exact.assets)
    evaluate = make_evaluator(TEXT, exact, made.settings, evaluation=evaluation, samples=6, roles=made.engines)
    _, divergence, agreement = (measure.value for measure in evaluate(candidate).paired)
    assert divergence > 1e-6
    assert agreement < 1
    assert [m.value for m in evaluate(exact).paired] == [0.0, 0.0, 1.0]
