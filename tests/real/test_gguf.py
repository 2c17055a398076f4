"""SmolLM2 from its GGUF file is the same model as from the folder that a second reader of the format made of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.models.sources.gguf.texts import TEXTS

from aigc_models.program import Program
from aigc_models.sources import resolve
from aigc_runtime.generation.chat import ChatTemplate
from aigc_runtime.generation.tokenizers import TokenizerRequest, make_tokenizer

pytestmark = pytest.mark.real
pytest.importorskip("gguf")

CHAT = [{"role": "user", "content": "What is the capital of France?"}, {"role": "assistant", "content": "Paris."}]


@pytest.fixture(scope="module")
def program(smollm2_gguf: Path) -> Program:
    return resolve(str(smollm2_gguf))


def test_weights_are_bit_equal(program: Program, smollm2: Path) -> None:
    ours, theirs = (model.part.module.state_dict() for model in (program, resolve(str(smollm2))))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_ids_and_prompts_are_those_of_transformers(program: Program, smollm2: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(smollm2)
    settings = program.settings
    tokenizer = make_tokenizer(
        TokenizerRequest(
            info=settings.tokenizer,
            vocab_size=settings.vocab_size,
            assets=program.assets,
            bos=settings.bos_token_id,
            others=(*settings.eos_token_ids, settings.pad_token_id),
        )
    )
    words = [f"{a} {b}" for a in TEXTS for b in TEXTS[::8]]
    assert len(words) > 200
    for text in (*TEXTS, *words, "a<|im_end|>b<|endoftext|>"):
        assert tokenizer.encode(text).tolist() == theirs(text)["input_ids"], text
    template = ChatTemplate.of(settings.chat, program.assets)
    for chat in (CHAT, CHAT[:1], [{"role": "system", "content": "Be brief."}, *CHAT]):
        for more in (True, False):
            expected = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=more)
            assert template.render(chat, add_generation_prompt=more) == expected
    ours, second = (json.loads(data) for data in (program.assets["tokenizer.json"], _read(smollm2, "tokenizer.json")))
    assert ours["model"] == second["model"]


def _read(folder: Path, name: str) -> bytes:
    return (folder / name).read_bytes()
