"""What is recorded of a tokenizer and a chat template, by whom, and that another reading is refused."""

from __future__ import annotations

import doctest
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aigc_models.text_assets import (
    BYTES,
    NO_TEXT,
    TextAssets,
    TextDiffersError,
    by_transformers,
    make_vectors,
    needs_vectors,
    read_text_assets,
)
from aigc_models.text_assets import vectors as module
from aigc_runtime.generation.chat import ChatInfo
from aigc_runtime.generation.tokenizers import TokenizerInfo

from ...runtime.generation.tokenizers.makers import byte_level
from .folders import CHATML, folders, write_folder

DATED = "{{ strftime_now('%d %b %Y') }}" + CHATML


@pytest.fixture
def assets(tmp_path: Path) -> TextAssets:
    settings = {"chat_template": DATED, "eos_token": "<|im_end|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    folder = write_folder(tmp_path, byte_level(), config={"model_type": "llama"}, tokenizer_config=settings)
    return read_text_assets(folder, {"model_type": "llama"}, vocab_size=400)


def test_texts_and_chats_are_recorded_by_transformers(assets: TextAssets) -> None:
    found = make_vectors(assets, 400)
    value = json.loads(found.data)
    assert found.made_by == value["made_by"]
    assert found.made_by.startswith("transformers 5.")
    assert found.notes == ()
    assert 180 <= len(value["texts"]) <= 250
    assert len(value["chats"]) == 32
    assert any("<|im_end|>" in one["text"] for one in value["texts"])
    prompts = [one["prompt"] for one in value["chats"]]
    assert prompts[0].startswith("29 Feb 2024<|im_start|>user\nWhat is")
    refusals = [one["refused"] for one in value["chats"] if one["prompt"] is None]
    assert refusals
    assert all(refusals)


def test_the_same_is_recorded_twice(assets: TextAssets) -> None:
    assert make_vectors(assets, 400).data == make_vectors(assets, 400).data


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma", "unigram", "another class", "gpt2, old files"])
def test_every_class_is_recorded(name: str, tmp_path: Path) -> None:
    folder = folders(tmp_path)[name]
    config = json.loads((folder / "config.json").read_bytes())
    assert make_vectors(read_text_assets(folder, config, vocab_size=500), 500).made_by.startswith("transformers")


def test_what_was_made_in_memory_is_recorded_over_the_bundles_own_files(assets: TextAssets) -> None:
    found = make_vectors(replace(assets, folder=None), 400)
    assert found.data == make_vectors(assets, 400).data
    assert found.notes == ()


@pytest.mark.slow
def test_a_folder_that_transformers_does_not_read_is_told(assets: TextAssets, tmp_path: Path) -> None:
    found = make_vectors(replace(assets, folder=tmp_path / "nothing"), 400)
    assert found.notes == (
        "transformers does not read the folder's tokenizer: token ids are compared over the bundle's own",
    )


def test_without_transformers_our_own_reading_is_recorded(assets: TextAssets, monkeypatch: pytest.MonkeyPatch) -> None:
    by_transformers = json.loads(make_vectors(assets, 400).data)
    monkeypatch.setattr(module, "transformers_version", lambda: None)
    found = make_vectors(assets, 400)
    value = json.loads(found.data)
    assert found.notes == ("token ids are not compared with transformers, which is not installed",)
    assert value["made_by"].startswith("tokenizers ")
    assert value["texts"] == by_transformers["texts"]
    assert [one["prompt"] for one in value["chats"]] == [one["prompt"] for one in by_transformers["chats"]]


def test_an_old_transformers_is_no_second_opinion(assets: TextAssets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "transformers_version", lambda: "4.57.1")
    found = make_vectors(assets, 400)
    assert found.made_by.startswith("tokenizers ")
    assert "not compared with transformers 4.57.1, which reads some tokenizers otherwise" in found.notes[0]
    assert not doctest.testmod(by_transformers).failed


def test_another_tokenizer_than_the_folders_is_refused(assets: TextAssets) -> None:
    value = json.loads(byte_level())
    value["normalizer"] = {"type": "NFC"}
    other = replace(assets, files={**assets.files, "tokenizer.json": json.dumps(value).encode()})
    with pytest.raises(TextDiffersError, match=r"is not read as transformers 5\.\S+ reads it: text 'e\\u0301 vs"):
        make_vectors(other, 400)


def test_another_template_than_the_folders_is_refused(assets: TextAssets) -> None:
    other = replace(assets, files={**assets.files, "chat_template.jinja": b"{{ messages[0].content }}"})
    with pytest.raises(TextDiffersError, match="reads it: chat 'What is the capital of France"):
        make_vectors(other, 400)


def test_a_decoding_that_differs_is_refused(assets: TextAssets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module._Theirs, "decode", lambda self, ids: "other")
    with pytest.raises(TextDiffersError, match="its ids are decoded to '', recorded 'other'"):
        make_vectors(assets, 400)


def test_what_needs_no_recording() -> None:
    assert not needs_vectors(BYTES)
    assert not needs_vectors(NO_TEXT)
    assert needs_vectors(TextAssets(tokenizer=TokenizerInfo(kind="huggingface", file="tokenizer.json")))


def test_a_chat_over_bytes_is_recorded() -> None:
    chat = ChatInfo(templates={"default": "chat_template.jinja"}, special_tokens={})
    text: Any = replace(BYTES, chat=chat, files={"chat_template.jinja": CHATML.encode()})
    assert needs_vectors(text)
    value = json.loads(make_vectors(text, 256).data)
    assert value["chats"][0]["ids"] == list(value["chats"][0]["prompt"].encode())
