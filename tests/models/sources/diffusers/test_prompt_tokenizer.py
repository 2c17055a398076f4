"""The tokenizer of prompts against transformers' CLIPTokenizer of the same folder."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aigc_models.families.clip_text_config import ClipTextConfig
from aigc_models.sources.diffusers.prompt_tokenizer import PromptTokenizer, read_prompt_tokenizer
from aigc_runtime.errors import AigcError, CheckpointError
from aigc_runtime.generation.tokenizers import HuggingFaceTokenizer

from .small_sd import BEGIN, END, clip_vocabulary, transformers, write_tokenizer

TEXT = ClipTextConfig(vocab_size=2000, hidden_size=8, intermediate_size=8, num_attention_heads=2)

PROMPTS = [
    "",
    " ",
    "a lighthouse at dusk",
    "A LightHouse  at\n\tdusk!!",
    "the cat's house, and the dog'S: they'll 'd 've",
    "12 345 6.7e8 ²½ ٣",
    "äöü ÄÖÜ ß ẞ İ ı ﬁ ŉ",
    "a\u0308 e\u0301 \u1e9b\u0323 \u212b",  # decomposed and composed characters
    "日本語 灯台 👩‍👩‍👧 🏴‍☠️ \u200b\u00a0\u3000x",
    "blur " * 100,
    f"{BEGIN}a{END} b {BEGIN.upper()} <|start",
    f"  {END}  {END}x",
    "under_score-and—dash… “quotes” (((emphasis:1.2))) [alt|er]",
    "\x00\x01\x7f tab\tend\r\n",
    "İstanbul’s ﬀ ǅ Σς ͅ",
]
ALPHABET = [*"aAbBeEtThH 's!?.,12ß\n\t", "ä", "Ä", "灯", "👩", "\u0301", "\u200b", BEGIN, END, "light", "house"]


@pytest.fixture(scope="module", params=[END, "!"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, PromptTokenizer]:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, pad=request.param)
    return transformers.CLIPTokenizer.from_pretrained(folder), read_prompt_tokenizer(folder, TEXT)


def ours(made: PromptTokenizer) -> HuggingFaceTokenizer:
    return HuggingFaceTokenizer(made.files["tokenizer.json"])


@pytest.mark.parametrize("prompt", PROMPTS)
def test_prompts_have_the_same_tokens(prompt: str, both: tuple[Any, PromptTokenizer]) -> None:
    theirs, made = both
    assert ours(made).encode(prompt).tolist() == theirs(prompt).input_ids


def test_random_prompts_have_the_same_tokens(both: tuple[Any, PromptTokenizer]) -> None:
    theirs, made = both
    draw, tokenizer = random.Random(0), ours(made)
    for _ in range(2000):
        prompt = "".join(draw.choices(ALPHABET, k=draw.randrange(1, 30)))
        assert tokenizer.encode(prompt).tolist() == theirs(prompt).input_ids, prompt


def test_merges_are_used_at_all(both: tuple[Any, PromptTokenizer]) -> None:
    """Else a comparison of bytes alone would say nothing about them."""
    vocabulary, tokenizer = clip_vocabulary(), ours(both[1])
    for text, tokens in (
        ("house", ["house</w>"]),
        ("The light", ["the</w>", "light</w>"]),
        ("lion", ["li", "o", "n</w>"]),
    ):
        assert tokenizer.encode(text).tolist() == [vocabulary[token] for token in (BEGIN, *tokens, END)]


def test_what_fills_up_and_how_long_prompts_are(both: tuple[Any, PromptTokenizer]) -> None:
    theirs, made = both
    assert made.pad_token_id == theirs.pad_token_id
    assert made.prompt_tokens == theirs.model_max_length == 77
    assert made.notes == (
        "vocab.json and merges.txt were made into a tokenizer.json",
        "the tokenizer has 546 of the 2,000 tokens that the text encoder knows: if it is another model's, prompts "
        "are misread",
    )


def test_a_tokenizer_that_fills_the_text_encoder_has_no_such_note(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    made = read_prompt_tokenizer(tmp_path, replace(TEXT, vocab_size=546))
    assert made.notes == ("vocab.json and merges.txt were made into a tokenizer.json",)


def test_a_file_of_another_pre_tokenizer_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    """The class builds its own from vocabulary and merges, whatever else tokenizer.json says."""
    write_tokenizer(tmp_path)
    transformers.CLIPTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path / "new")
    theirs = transformers.CLIPTokenizer.from_pretrained(tmp_path / "new")
    tokenizer = ours(read_prompt_tokenizer(tmp_path / "new", TEXT))
    for prompt in PROMPTS:
        assert tokenizer.encode(prompt).tolist() == theirs(prompt).input_ids, prompt


@pytest.mark.parametrize("length", [None, int(1e30)])
def test_a_length_that_is_not_said_is_that_of_the_text_encoder(length: int | None, tmp_path: Path) -> None:
    write_tokenizer(tmp_path, model_max_length=length)
    assert read_prompt_tokenizer(tmp_path, TEXT).prompt_tokens == 77


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_max_length": 78}, "model_max_length is 78, the text encoder's max_position_embeddings 77"),
        ({"model_max_length": "77"}, "model_max_length is '77'"),
        ({"pad": "<pad-that-is-not-there>"}, "has 547 tokens, the text encoder's vocab_size is 546"),
    ],
)
def test_what_does_not_fit_the_text_encoder(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_tokenizer(tmp_path, **changes)
    text = ClipTextConfig(vocab_size=546, hidden_size=8, intermediate_size=8, num_attention_heads=2)
    with pytest.raises(AigcError, match=message):
        read_prompt_tokenizer(tmp_path, text)


def test_damaged_files(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\nnot there\n")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read"):
        read_prompt_tokenizer(tmp_path, TEXT)
