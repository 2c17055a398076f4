"""What is recorded of the tokenizers of prompts, by whom, and that another reading is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aigc_models.text_assets import PromptOrigin, TextDiffersError, make_prompt_vectors
from aigc_models.text_assets import prompt_vectors as module
from aigc_models.text_assets.samples import sample_prompts
from aigc_runtime.generation.schedules import ScheduleConfig
from aigc_runtime.generation.tokenizers import TokenizerInfo
from aigc_runtime.pipelines.text_to_image_settings import PromptInfo, TextToImageSettings

from ..sources.diffusers.small_sd import END, clip_vocabulary, transformers, write_tokenizer

SIZE, LENGTH = len(clip_vocabulary()), 20
ROLE, FILE = "text_encoder", "tokenizer.json"
END_ID, OTHER_PAD = clip_vocabulary()[END], clip_vocabulary()["!"]
SETTINGS = TextToImageSettings(
    schedule=ScheduleConfig(),
    latent_channels=4,
    latent_size=(8, 8),
    latent_scale=8,
    scaling_factor=1.0,
    tokenizer=TokenizerInfo(kind="huggingface", file=FILE),
    vocab_size=SIZE + 8,
    prompt_tokens=LENGTH,
    pad_token_id=END_ID,
    default_sampler="ddim",
    default_steps=10,
    default_guidance_scale=7.5,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tokenizer(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def opened(folder: Path) -> Any:
    return transformers.CLIPTokenizer.from_pretrained(folder)


def file_of(tokenizer: Any) -> bytes:
    return str(tokenizer.backend_tokenizer.to_str()).encode()


def recorded(found: Any) -> dict[str, dict[str, list[int]]]:
    return {vector["text"]: vector["ids"] for vector in json.loads(found.data)["prompts"]}


def test_prompts_are_recorded_by_transformers(folder: Path) -> None:
    theirs = opened(folder)
    found = make_prompt_vectors(SETTINGS, {FILE: file_of(theirs)}, {ROLE: PromptOrigin(folder=folder)})
    assert found.made_by == json.loads(found.data)["made_by"] == f"transformers {transformers.__version__}"
    assert found.notes == ()
    rows = recorded(found)
    assert 90 <= len(rows) <= 120
    assert "👩‍🚀 👨‍👩‍👧‍👦 🏳️‍🌈 🧑🏽‍💻 👍🏿" in rows
    cut = 0
    for text, ids in rows.items():
        whole = theirs(text).input_ids
        kept = whole if len(whole) <= LENGTH else [*whole[: LENGTH - 1], whole[-1]]
        assert ids == {ROLE: kept + [END_ID] * (LENGTH - len(kept))}
        cut += len(whole) > LENGTH
    assert cut > 10
    assert make_prompt_vectors(SETTINGS, {FILE: file_of(theirs)}, {}) == found  # over the bundle's own file


def test_each_text_encoder_has_its_own_tokenizer(folder: Path, tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "other", pad="!")
    info = PromptInfo(
        tokenizer=TokenizerInfo(kind="huggingface", file="b.json"), vocab_size=SIZE, pad_token_id=OTHER_PAD
    )
    files = {FILE: file_of(opened(folder)), "b.json": file_of(opened(tmp_path / "other"))}
    origins = {ROLE: PromptOrigin(folder=folder), "text_encoder_2": PromptOrigin(folder=tmp_path / "other")}
    row = recorded(make_prompt_vectors(replace(SETTINGS, second=info), files, origins))["a"]
    begin = clip_vocabulary()["<|startoftext|>"]
    start = [begin, clip_vocabulary()["a</w>"], END_ID]
    assert row == {ROLE: [*start, *[END_ID] * 17], "text_encoder_2": [*start, *[OTHER_PAD] * 17]}


def test_learned_tokens_are_tried_within_prompts(folder: Path) -> None:
    theirs = opened(folder)
    theirs.add_tokens(["<cat>", "<cat>_1", "style"])
    settings = replace(SETTINGS, multi_vector=((SIZE, 2),))
    origin = PromptOrigin(folder=folder, learned=("<cat>", "<cat>_1", "style"))
    rows = recorded(make_prompt_vectors(settings, {FILE: file_of(theirs)}, {ROLE: origin}))
    assert rows["<cat>"][ROLE][1:4] == [SIZE, SIZE + 1, END_ID]
    assert rows["a style, style and style!"][ROLE].count(SIZE + 2) == 3
    assert "<cat>_1" not in rows
    with pytest.raises(TextDiffersError, match="prompt '<cat>' for text_encoder"):  # one of its vectors alone
        make_prompt_vectors(SETTINGS, {FILE: file_of(theirs)}, {ROLE: origin})
    capital = replace(origin, learned=("<CAT>", "<CAT>_1"))
    again = opened(folder)
    again.add_tokens(list(capital.learned))
    assert "<CAT>" not in recorded(make_prompt_vectors(settings, {FILE: file_of(again)}, {ROLE: capital}))


def test_another_tokenizer_than_the_folders_is_refused(folder: Path) -> None:
    value = json.loads(file_of(opened(folder)))
    vocabulary = value["model"]["vocab"]
    vocabulary["e"], vocabulary["f"] = vocabulary["f"], vocabulary["e"]
    with pytest.raises(
        TextDiffersError, match=r"is not read as transformers 5\.\S+ reads it: prompt '.* for text_encoder"
    ):
        make_prompt_vectors(SETTINGS, {FILE: json.dumps(value).encode()}, {ROLE: PromptOrigin(folder=folder)})


def test_a_folder_that_transformers_does_not_read_is_told(folder: Path, tmp_path: Path) -> None:
    data = {FILE: file_of(opened(folder))}
    found = make_prompt_vectors(SETTINGS, data, {ROLE: PromptOrigin(folder=tmp_path / "nothing")})
    assert found.notes == (
        "transformers does not read the tokenizer of text_encoder: token ids are compared over the bundle's own",
    )


@pytest.mark.parametrize("version", [None, "4.57.1"])
def test_without_transformers_our_own_reading_is_recorded(
    version: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, origins = {FILE: file_of(opened(folder))}, {ROLE: PromptOrigin(folder=folder)}
    expected = recorded(make_prompt_vectors(SETTINGS, data, origins))
    monkeypatch.setattr(module, "transformers_version", lambda: version)
    found = make_prompt_vectors(SETTINGS, data, origins)
    assert found.made_by.startswith("tokenizers ")
    assert "not compared with transformers" in found.notes[0]
    assert recorded(found) == expected


def test_prompts_are_different_ones() -> None:
    prompts = sample_prompts(["<cat>"])
    assert len(set(prompts)) == len(prompts)
    assert "a photo of <cat>" in prompts
