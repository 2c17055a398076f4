"""SmolLM2 from its GGUF file is the same model as from the folder that a second reader of the format made of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.models.sources.gguf.texts import TEXTS
from tests.models.sources.lora.test_adapter import CONFIG, write

from aigc_models.program import Program
from aigc_models.sources import resolve
from aigc_models.torch_session import open_torch
from aigc_models.weights.stored_weights import StoredWeights
from aigc_runtime.generation.chat import ChatTemplate
from aigc_runtime.generation.tokenizers import TokenizerRequest, make_tokenizer
from aigc_runtime.pipelines.text import TextPipeline

pytestmark = pytest.mark.real
pytest.importorskip("gguf")

MODULE = "model.layers.3.self_attn.k_proj"
ADAPTER = {
    f"base_model.model.{MODULE}.lora_A.weight": torch.linspace(-1, 1, 2 * 576).reshape(2, 576),
    f"base_model.model.{MODULE}.lora_B.weight": torch.linspace(-0.1, 0.1, 192 * 2).reshape(192, 2),
}
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


def test_an_adapter_gives_the_same_model_of_both(smollm2_gguf: Path, smollm2: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "adapter", {**CONFIG, "target_modules": ["k_proj"]}, ADAPTER)
    ours, theirs = (resolve(str(base), options={"lora": (f"{path}:0.5",)}) for base in (smollm2_gguf, smollm2))
    read, expected = (model.part.module.state_dict() for model in (ours, theirs))
    assert all(torch.equal(read[name], expected[name]) for name in expected)
    base = StoredWeights(smollm2 / "model.safetensors")[f"{MODULE}.weight"]
    low, high = ADAPTER.values()
    torch.testing.assert_close(expected[f"{MODULE}.weight"], base + 0.5 * 2 * (high @ low), rtol=1e-6, atol=1e-6)


def test_it_knows_the_capital_of_france(program: Program) -> None:
    pipeline = TextPipeline(open_torch(program), program.settings)
    prompt = pipeline.chat_template.render(CHAT[:1], add_generation_prompt=True)
    (result,) = pipeline.generate(prompt, max_new_tokens=12)
    assert "Paris" in result.text


def _read(folder: Path, name: str) -> bytes:
    return (folder / name).read_bytes()
