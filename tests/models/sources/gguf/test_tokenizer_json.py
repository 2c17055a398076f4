"""Tokenizers of GGUF files give the ids of transformers' own classes, and of SentencePiece's algorithm."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
from tests.models.sources.gguf.texts import TEXTS

from aigc_models.sources.gguf.tokenizer_json import make_tokenizer_json
from aigc_models.sources.gguf.vocabulary import Vocabulary
from aigc_runtime.errors import CheckpointError
from aigc_runtime.generation.tokenizers import HuggingFaceTokenizer

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

CORPUS = [*TEXTS, *(f"{word} and {word}s, {word}ing" for word in ("test", "token", "model", "straße", "日本"))] * 2


def byte_level(pre: str, **more: Any) -> dict[str, Any]:
    """The values of a file with a small vocabulary, trained by the library."""
    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    trained.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(
        CORPUS, tokenizers.trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    )
    model = json.loads(trained.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    merges = [" ".join(pair) for pair in model["merges"]]
    return values("gpt2", [*tokens, "<|end|>", "<think>"], [1] * len(tokens) + [3, 4], pre=pre, merges=merges, **more)


def values(model: str, tokens: list[str], types: list[int], **more: Any) -> dict[str, Any]:
    given = {"model": model, "tokens": tokens, "token_type": np.array(types, np.int32), **more}
    return {f"tokenizer.ggml.{key}": value for key, value in given.items()}


def made(given: dict[str, Any], *, size: int = 10_000, architecture: str = "llama") -> HuggingFaceTokenizer:
    vocabulary = Vocabulary.of(given, vocab_size=size)
    return HuggingFaceTokenizer(
        make_tokenizer_json(given["tokenizer.ggml.model"], vocabulary, architecture=architecture)
    )


@pytest.mark.parametrize(("pre", "name"), [("gpt-2", "GPT2Tokenizer"), ("qwen2", "Qwen2Tokenizer")])
def test_ids_are_those_of_transformers_class(pre: str, name: str) -> None:
    given = byte_level(pre)
    tokens, merges = given["tokenizer.ggml.tokens"], given["tokenizer.ggml.merges"]
    theirs = getattr(transformers, name)(
        vocab={token: i for i, token in enumerate(tokens)}, merges=[tuple(line.split(" ")) for line in merges]
    )
    theirs.add_tokens(["<think>"])
    theirs.add_special_tokens({"additional_special_tokens": ["<|end|>"]})
    ours = made(given)
    for text in (*TEXTS, "a<|end|>b <think> c<|end|>"):
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.encode(text).tolist() == ids, text
        assert ours.decode(np.array(ids, np.int64)) == theirs.decode(ids, skip_special_tokens=True), text


def test_a_text_begins_and_ends_as_the_file_says() -> None:
    given = byte_level("gpt-2", bos_token_id=420, eos_token_id=421)
    bare = made(given).encode("Hello").tolist()
    flags = {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}
    assert made({**given, **flags}).encode("Hello").tolist() == [420, *bare, 421]
    llama3 = byte_level("llama-bpe", bos_token_id=420)  # which has one without being told
    assert made(llama3).encode("Hello").tolist()[0] == 420
    assert made({**llama3, "tokenizer.ggml.add_bos_token": False}).encode("Hello").tolist()[0] != 420


SPECIAL = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]


def sentencepiece(**more: Any) -> dict[str, Any]:
    """The values of a file with pieces and scores, as SentencePiece's trainer of pairs gives them."""
    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    trained.train_from_iterator(
        ["▁" + text.replace(" ", "▁") for text in CORPUS],
        tokenizers.trainers.BpeTrainer(vocab_size=500, limit_alphabet=120, show_progress=False),
    )
    model = json.loads(trained.to_str())["model"]
    merged = ["".join(pair) for pair in model["merges"]]
    pieces = [*dict.fromkeys(merged), *(token for token in model["vocab"] if len(token) == 1)]
    scores = [0.0] * len(SPECIAL) + [-float(i) for i in range(len(pieces))]
    types = [2, 3, 3] + [6] * 256 + [1] * len(pieces)
    named = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
    return values("llama", [*SPECIAL, *pieces], types, scores=np.array(scores, np.float32), **named, **more)


def by_scores(given: dict[str, Any], text: str) -> list[int]:
    """SentencePiece's own algorithm: the neighbors whose piece has the best score become it, the leftmost first."""
    tokens, scores = given["tokenizer.ggml.tokens"], given["tokenizer.ggml.scores"].tolist()
    score = {token: scores[i] for i, token in enumerate(tokens) if i >= len(SPECIAL)}
    symbols = [*text.replace(" ", "▁")]
    while True:
        pairs = [(score.get(a + b, -np.inf), -i) for i, (a, b) in enumerate(itertools.pairwise(symbols))]
        if not pairs or max(pairs)[0] == -np.inf:
            break
        at = -max(pairs)[1]
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    ids = {token: i for i, token in enumerate(tokens)}
    return [i for s in symbols for i in ([ids[s]] if s in score else [3 + byte for byte in s.encode()])]


@pytest.mark.parametrize("prefix", [True, False])
def test_pieces_are_merged_by_their_scores(prefix: bool) -> None:
    given = sentencepiece(add_space_prefix=prefix)
    ours = made(given)
    for text in TEXTS:
        lead = " " if prefix and text else ""
        assert ours.encode(text).tolist() == [1, *by_scores(given, lead + text)], text
        assert ours.decode(ours.encode(text)) == text


def test_merges_are_those_that_transformers_makes_of_scores() -> None:
    from transformers.convert_slow_tokenizer import generate_merges

    given = sentencepiece()
    tokens, scores = given["tokenizer.ggml.tokens"], given["tokenizer.ggml.scores"].tolist()
    content = json.loads(
        make_tokenizer_json("llama", Vocabulary.of(given, vocab_size=len(tokens)), architecture="llama")
    )
    expected = generate_merges({t: i for i, t in enumerate(tokens)}, list(zip(tokens, scores, strict=True)), SPECIAL)
    assert [tuple(pair) for pair in content["model"]["merges"]] == expected


def test_phi3_marks_take_the_spaces_behind_them() -> None:
    given = sentencepiece()
    given["tokenizer.ggml.tokens"] = [*given["tokenizer.ggml.tokens"], "<|user|>"]
    given["tokenizer.ggml.token_type"] = np.append(given["tokenizer.ggml.token_type"], 3)
    given["tokenizer.ggml.scores"] = np.append(given["tokenizer.ggml.scores"], -1000.0)
    near, far = "<|user|>test", "<|user|>  \n test"
    assert (
        made(given, architecture="phi3").encode(near).tolist() == made(given, architecture="phi3").encode(far).tolist()
    )
    assert made(given).encode(near).tolist() != made(given).encode(far).tolist()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"model": "t5"}, "tokenizer.ggml.model is 't5'"),
        ({"pre": None}, "tokenizer.ggml.pre is missing"),
        ({"pre": "default"}, "'default'"),
        ({"tokens": None}, "tokens is missing"),
        ({"tokens": []}, "tokens is missing"),
        ({"tokens": ["a"] * 422}, "'a' has 422 ids"),
        ({"token_type": np.zeros(422, np.int32)}, "token_type holds 0"),
        ({"token_type": np.ones(7, np.int32)}, "no list of 422 numbers"),
        ({"merges": None}, "merges is missing"),
        ({"merges": ["a"]}, "no pair"),
        ({"merges": ["a zz"]}, "no pair"),
        ({"add_bos_token": True}, "no token is its bos_token"),
        ({"add_bos_token": 1}, "add_bos_token is 1"),
        ({"eos_token_id": 422, "add_eos_token": True}, "eos_token_id is 422"),
        ({"eos_token_id": -1, "add_eos_token": True}, "eos_token_id is -1"),
    ],
)
def test_what_is_wrong_with_byte_pairs_is_said(change: dict[str, Any], match: str) -> None:
    given = byte_level("gpt-2")
    for key, value in change.items():
        given[f"tokenizer.ggml.{key}"] = value
    with pytest.raises(CheckpointError, match=match) as caught:
        made({key: value for key, value in given.items() if value is not None})
    assert caught.value.hint


def test_more_tokens_than_rows_are_refused() -> None:
    with pytest.raises(CheckpointError, match="422 tokens, the model 421 rows"):
        made(byte_level("gpt-2"), size=421)


def test_a_piece_without_end_is_refused() -> None:
    given = sentencepiece()
    given["tokenizer.ggml.tokens"][-1] = "x" * 2**20
    with pytest.raises(CheckpointError, match="a piece of 1,048,576 characters"):
        made(given)


def test_scores_without_an_order_are_refused() -> None:
    given = sentencepiece()
    given["tokenizer.ggml.scores"] = np.full(len(given["tokenizer.ggml.tokens"]), -1000.0, np.float32)
    with pytest.raises(CheckpointError, match="the same score: which is merged first is not known"):
        made(given)
    given["tokenizer.ggml.scores"][5] = np.nan
    with pytest.raises(CheckpointError, match="scores is missing, or holds what is no number"):
        made(given)
