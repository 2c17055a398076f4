"""SmolLM2-135M-Instruct, which nobody here trained: from its folder and from its file to a chat on a device.

PyTorch's side is transformers' own model of the same folder. The weights are those of a 4-bit file, held in float32.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.real.conftest import Export

from aigc_runtime.opening import open_pipeline

pytestmark = pytest.mark.real

QUESTION = "What is the capital of France?"
CLEAREST_QUESTIONS = (
    "What is the name of the capital of France?",
    "What city is the capital of France? Answer in English.",
    "Complete the sentence: The capital of France is",
)
CLEAR_QUESTIONS = (
    *CLEAREST_QUESTIONS,
    "Name the capital city of France.",
    "Tell me the capital of France.",
    "What is the capital of France called?",
)
CLEAR = {"int8": (0.7, CLEAR_QUESTIONS), "int4": (2.0, CLEAREST_QUESTIONS)}
"""Precision -> nats between PyTorch's likeliest token and the next one, at least, where it must answer as PyTorch does,
and questions with that lead; for QUESTION there are 0.08."""
PROMPTS = (
    "The history of the printing press begins",
    "def fibonacci(n):\n",
    "Water boils at",
    "Der schnelle braune Fuchs",
)
TOKENS = 48


@lru_cache(maxsize=1)
def theirs(folder: Path) -> tuple[Any, Any]:
    """transformers' model and tokenizer of a folder."""
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


def their_tokens(folder: Path, ids: Sequence[int], count: int) -> list[int]:
    import torch

    model, _ = theirs(folder)
    with torch.no_grad():
        found = model.generate(torch.tensor([list(ids)]), do_sample=False, max_new_tokens=count)
    return [int(token) for token in found[0, len(ids) :]]


def run(module: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def chat(bundle: Path, question: str = QUESTION) -> str:
    return run(
        "aigc_runtime", "generate", str(bundle), "--chat", question, "--max-new-tokens", "24", "--temperature", "0"
    )


def test_inspect_knows_the_model_before_any_work(smollm2: Path) -> None:
    found = json.loads(run("aigc_export", "inspect", str(smollm2), "--json"))
    assert "134515008" in json.dumps(found)


def test_fp32_is_transformers_word_for_word(smollm2: Path, export: Export) -> None:
    bundle = export(smollm2, "fp32")
    _, tokenizer = theirs(smollm2)
    with open_pipeline(bundle) as pipeline:
        for prompt in PROMPTS:
            ids = tokenizer(prompt)["input_ids"]
            assert pipeline.tokenizer.encode(prompt).tolist() == ids
            (result,) = pipeline.generate(prompt, max_new_tokens=TOKENS, temperature=0.0)
            assert result.token_ids.tolist() == their_tokens(smollm2, ids, TOKENS)
        together = pipeline.generate(list(PROMPTS), max_new_tokens=TOKENS, temperature=0.0)
        alone = [pipeline.generate(prompt, max_new_tokens=TOKENS, temperature=0.0)[0] for prompt in PROMPTS]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one.token_ids, other.token_ids)


def test_fp32_answers(smollm2: Path, export: Export) -> None:
    said = chat(export(smollm2, "fp32"))
    model, tokenizer = theirs(smollm2)
    messages = [{"role": "user", "content": QUESTION}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    expected = tokenizer.decode(their_tokens(smollm2, ids, 24), skip_special_tokens=True)
    assert expected in said
    assert "Paris" in said
    assert model.config.vocab_size == 49152


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_low_precision_answers(smollm2: Path, export: Export, precision: str) -> None:
    """What PyTorch answers clearly is answered so in few bits, too; a tie may go either way."""
    import torch

    model, tokenizer = theirs(smollm2)
    lead, questions = CLEAR[precision]
    for question in questions:
        messages = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        with torch.inference_mode():
            logits = model(tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]).logits[0, -1]
        first, second = logits.topk(2).values.tolist()
        assert first - second > lead, question
    bundle = export(smollm2, precision)
    answers = [chat(bundle, question) for question in questions]
    assert all("Paris" in answer for answer in answers), answers


def test_the_file_itself_gives_the_same_model(smollm2: Path, smollm2_gguf: Path, export: Export) -> None:
    from aigc_models.sources import resolve

    one, other = resolve(str(smollm2)), resolve(str(smollm2_gguf))
    for name, tensor in one.part.module.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), other.part.module.state_dict()[name].numpy())
    assert "Paris" in chat(export(smollm2_gguf, "fp32"))


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_bundles_verify(smollm2: Path, export: Export, precision: str) -> None:
    run("aigc_runtime", "verify", str(export(smollm2, precision)))
