"""Bundles from text to pictures whose prompts' token ids are replayed: what passes, what fails and names the prompt."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.errors import BundleError, OutputError
from aigc_runtime.generation.tokenizers import TokenizerInfo
from aigc_runtime.pipelines.text_to_image_settings import PromptInfo
from aigc_runtime.proof.text_vectors import TextCheck, check_text_vectors
from aigc_runtime.proof.verify import check_text

from ..pipelines.picture_toys import SETTINGS as TOY
from ..pipelines.picture_toys import TOKENS, write

transformers: Any = pytest.importorskip("transformers")

from ..generation.tokenizers.makers import unigram  # noqa: E402 - behind the packages that it needs

FILE, FILE_2 = "tokenizer.json", "tokenizer_2.json"
SETTINGS = replace(TOY, tokenizer=TokenizerInfo(kind="huggingface", file=FILE), pad_token_id=3)
SECOND = PromptInfo(tokenizer=TokenizerInfo(kind="huggingface", file=FILE_2), vocab_size=256, pad_token_id=4)
ASSETS = {FILE: unigram()}
PROMPTS = ["the quick brown fox", "", "日本語 👩‍🚀", "the dog " * 20]


def theirs(text: str, pad: int, folder: Path) -> list[int]:
    """A row by transformers: cut at T, filled up with the token of that id."""
    (folder / "theirs.json").write_bytes(unigram())
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "theirs.json"))
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
    row = tokenizer(text, padding="max_length", max_length=TOKENS, truncation=True).input_ids
    return [int(i) for i in row]


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("prompts")
    made_rows = [theirs(text, 3, folder) for text in PROMPTS]
    assert {len(row) for row in made_rows} == {TOKENS}
    rows = [{"text": text, "ids": {"text_encoder": row}} for text, row in zip(PROMPTS, made_rows, strict=True)]
    made: dict[str, Any] = {"format": "aigc-text-vectors", "version": 1, "made_by": "transformers"}
    return {**made, "texts": [], "chats": [], "prompts": rows}


def checked(vectors: Any, settings: Any = SETTINGS, assets: Any = ASSETS) -> TextCheck:
    return check_text_vectors(settings, assets, json.dumps(vectors).encode())


def test_a_bundle_whose_prompts_come_out_as_recorded(vectors: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path, SETTINGS, ASSETS, json.dumps(vectors).encode())
    found = check_text(Bundle.open(path))
    assert found is not None
    assert (found.passed, found.reasons) == (True, ())
    assert found.measured == "4 prompts, recorded by transformers"


def test_a_changed_vocabulary_is_found(vectors: dict[str, Any], tmp_path: Path) -> None:
    value = json.loads(unigram())
    vocabulary = value["model"]["vocab"]
    at = vectors["prompts"][0]["ids"]["text_encoder"][1]
    vocabulary[at], vocabulary[at + 1] = vocabulary[at + 1], vocabulary[at]
    path = write(tmp_path, SETTINGS, {FILE: json.dumps(value).encode()}, json.dumps(vectors).encode())
    found = check_text(Bundle.open(path))
    assert found is not None
    assert not found.passed
    with pytest.raises(
        AssertionError, match=r"prompt 'the quick brown fox' for text_encoder: from place \d+ its token"
    ):
        raise AssertionError("\n".join(found.reasons))


def test_each_text_encoder_has_its_own_rows(vectors: dict[str, Any], tmp_path: Path) -> None:
    settings, assets = replace(SETTINGS, second=SECOND), {**ASSETS, FILE_2: unigram()}
    both = json.loads(json.dumps(vectors))
    for row in both["prompts"]:
        row["ids"]["text_encoder_2"] = theirs(row["text"], 4, tmp_path)
    assert checked(both, settings, assets).passed
    both["prompts"][1]["ids"]["text_encoder_2"] = both["prompts"][1]["ids"]["text_encoder"]
    (reason,) = checked(both, settings, assets).reasons
    assert "prompt '' for text_encoder_2: from place" in reason
    (reason,) = checked(vectors, settings, assets).reasons
    assert "recorded for text_encoder, the pipeline has text_encoder, text_encoder_2 (4 of 4 prompts differ)" in reason


MISSED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "an id": (
        lambda v: v["prompts"][0]["ids"]["text_encoder"].__setitem__(0, 250),
        r"from place 0 its token ids are \[",
    ),
    "a shorter row": (lambda v: v["prompts"][3]["ids"]["text_encoder"].pop(), r"the dog .* from place 9 its token ids"),
    "no prompts": (lambda v: v["prompts"].clear(), "no prompt was compared"),
    "texts": (
        lambda v: v["texts"].append({"text": "a", "ids": [], "bare_ids": [], "decoded": ""}),
        "there are texts to compare, and no tokenizer of texts",
    ),
}


@pytest.mark.parametrize("name", MISSED)
def test_what_comes_out_otherwise_is_named(name: str, vectors: dict[str, Any]) -> None:
    edit, message = MISSED[name]
    edited = json.loads(json.dumps(vectors))
    edit(edited)
    found = checked(edited)
    assert not found.passed
    with pytest.raises(AssertionError, match=message):
        raise AssertionError("\n".join(found.reasons))


def test_a_damaged_file_is_refused(vectors: dict[str, Any]) -> None:
    edited = json.loads(json.dumps(vectors))
    edited["prompts"][0]["ids"]["text_encoder"][0] = "1"
    with pytest.raises(BundleError, match=r"texts\.prompts\[0\]\.ids\.text_encoder\[0\]"):
        checked(edited)


def test_tokenizers_without_proof_are_refused(vectors: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"reference\.text is None"):
        write(tmp_path, SETTINGS, ASSETS)
    with pytest.raises(OutputError, match=r"reference\.text is 'ref\.text\.json'"):  # bytes need none
        write(tmp_path, TOY, {}, json.dumps(vectors).encode())
