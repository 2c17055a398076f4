"""Folders of every class against AutoTokenizer, and folders that are damaged, foreign or dangerous."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_models.text_assets import read_text_assets
from aigc_models.text_assets import text_files as text_files_module
from aigc_models.text_assets.by_transformers import open_with_transformers
from aigc_models.text_assets.samples import sample_texts
from aigc_runtime.errors import AigcError, CheckpointError, ConfigError
from aigc_runtime.generation.sampling_params import SamplingParams
from aigc_runtime.generation.tokenizers import HuggingFaceTokenizer

from ...runtime.generation.tokenizers.makers import byte_level, llama_like, unigram
from .folders import CHATML, edited, folders, write_folder


def read(folder: Path, vocab_size: int = 500) -> Any:
    return read_text_assets(folder, json.loads((folder / "config.json").read_bytes()), vocab_size=vocab_size)


def with_token(token: str, i: int) -> bytes:
    """A tokenizer.json whose vocabulary has one more token."""
    model = json.loads(byte_level())["model"]
    return edited(byte_level(), model={**model, "vocab": {**model["vocab"], token: i}})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return folders(tmp_path_factory.mktemp("folders"))


NAMES = [
    "as it is", "no settings", "added tokens", "maps", "llama", "llama, legacy", "llama, no prefix",
    "llama of mistral", "llama over bytes", "gpt2", "gpt2, prefix", "gpt2, old files", "gpt_neox", "qwen2", "qwen3",
    "gemma", "unigram", "another class",
]  # fmt: skip


def test_every_folder_is_tried(made: dict[str, Path]) -> None:
    assert list(made) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_ids_and_texts_are_those_of_autotokenizer(made: dict[str, Path], name: str) -> None:
    assets, theirs = read(made[name]), open_with_transformers(made[name])
    ours = HuggingFaceTokenizer(assets.files["tokenizer.json"], clean_up_spaces=assets.tokenizer.clean_up_spaces)
    texts = sample_texts(token.content for token in theirs.added_tokens_decoder.values())
    for special in (True, False):
        expected = theirs(texts, add_special_tokens=special)["input_ids"]
        for text, ids in zip(texts, expected, strict=True):
            assert ours.encode(text, add_special_tokens=special).tolist() == ids, text
            if special:
                assert ours.decode(np.array(ids)) == theirs.decode(ids, skip_special_tokens=True), text
    assert ours.vocab_size == len(theirs)
    for token in ("bos", "eos"):
        found = getattr(theirs, f"{token}_token_id")
        told = assets.bos_token_id if token == "bos" else next(iter(assets.eos_token_ids), None)
        assert told == (None if getattr(theirs, f"{token}_token") is None else found)


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "qwen2", "gemma", "gpt2, prefix"])
def test_the_file_as_it_is_would_be_another_tokenizer(made: dict[str, Path], name: str) -> None:
    """So the comparison with AutoTokenizer can fail."""
    plain = HuggingFaceTokenizer((made[name] / "tokenizer.json").read_bytes())
    ours = HuggingFaceTokenizer(read(made[name]).files["tokenizer.json"])
    texts = sample_texts()
    assert any(plain.encode(text).tolist() != ours.encode(text).tolist() for text in texts)


def test_a_file_that_lacks_nothing_stays_as_it_is(made: dict[str, Path]) -> None:
    assert read(made["as it is"]).files["tokenizer.json"] == byte_level(bos=True)


def folder(tmp_path: Path, tokenizer: bytes | None = None, /, **files: Any) -> Path:
    config = {"config": {"model_type": "llama"}, **files}
    return write_folder(tmp_path, byte_level() if tokenizer is None else tokenizer, **config)


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    assets = read(write_folder(tmp_path, config={"model_type": "llama", "eos_token_id": 7, "pad_token_id": 3}))
    assert (assets.tokenizer.kind, assets.eos_token_ids, assets.pad_token_id) == ("none", (7,), 3)
    assert assets.notes == ("the folder has no tokenizer: token ids go in and come out",)


def test_ids_and_sampling_of_generation_config(tmp_path: Path) -> None:
    config = {
        "bos_token_id": 1, "eos_token_id": [2, 0], "do_sample": True, "temperature": 0.6, "top_p": 0.9,
        "min_p": 0.05, "repetition_penalty": 1.1, "max_length": 4096, "transformers_version": "4.40.0",
        "epsilon_cutoff": 0.0, "eta_cutoff": 0.001, "guidance_scale": None, "stop_strings": ["###"],
    }  # fmt: skip
    assets = read(folder(tmp_path, generation_config=config, config={"model_type": "llama", "eos_token_id": 2}))
    assert (assets.bos_token_id, assets.eos_token_ids, assets.pad_token_id) == (1, (2, 0), 2)
    assert assets.sampling == SamplingParams(temperature=0.6, top_k=50, top_p=0.9, min_p=0.05, repetition_penalty=1.1)
    assert assets.stop == ("###",)
    assert assets.notes == ("generation_config.json: not used: eta_cutoff 0.001, max_length 4096",)


@pytest.mark.parametrize(
    ("value", "stop"), [(None, ()), ([], ()), ("###", ("###",)), (["a", "b c", "a"], ("a", "b c"))]
)
def test_stop_strings_of_generation_config(value: Any, stop: tuple[str, ...], tmp_path: Path) -> None:
    assert read(folder(tmp_path / "text", generation_config={"stop_strings": value})).stop == stop
    without = read(
        write_folder(tmp_path / "ids", config={"model_type": "llama"}, generation_config={"stop_strings": value})
    )
    assert without.stop == ()
    told = ["generation_config.json: not used without a tokenizer: stop_strings " + repr(list(stop))] if stop else []
    assert [*without.notes] == [*told, "the folder has no tokenizer: token ids go in and come out"]


def test_what_is_drawn_is_not_used_where_nothing_is_drawn(tmp_path: Path) -> None:
    config = {"temperature": 0.6, "top_k": 50, "top_p": 1.0, "typical_p": 0.9, "no_repeat_ngram_size": 3}
    assets = read(folder(tmp_path, generation_config=config))
    assert assets.sampling == SamplingParams(no_repeat_ngram_size=3)
    assert assets.notes == (
        "generation_config.json: not used, since do_sample is false: temperature 0.6, typical_p 0.9",
    )


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"tokenizer_config": {"chat_template": CHATML}}, {"default": CHATML}),
        (
            {
                "tokenizer_config": {
                    "chat_template": [
                        {"name": "default", "template": "a"},
                        {"name": "tool_use", "template": "b"},
                        {"name": "x/y", "template": "c"},
                    ]
                }
            },
            {"default": "a", "tool_use": "b", "x/y": "c"},
        ),
        ({"tokenizer_config": {"chat_template": "old"}, "chat_template.jinja": "new"}, {"default": "new"}),
        ({"chat_template": {"chat_template": "of a processor"}}, {"default": "of a processor"}),
        ({}, None),
    ],
)
def test_chat_templates(tmp_path: Path, files: dict[str, Any], expected: dict[str, str] | None) -> None:
    assets = read(folder(tmp_path, **files))
    if expected is None:
        assert assets.chat is None
        return
    assert {name: assets.files[file].decode() for name, file in assets.chat.templates.items()} == expected
    assert list(assets.files) == ["tokenizer.json", *assets.chat.templates.values()]


def test_beams_where_tokens_are_drawn_are_told(tmp_path: Path) -> None:
    drawn = {"do_sample": True, "num_beams": 3}
    assets = read(folder(tmp_path, generation_config=drawn))
    assert (assets.sampling.num_beams, assets.sampling.temperature) == (1, 1.0)
    assert assets.notes == ("generation_config.json: not used, since do_sample is true: num_beams 3",)
    assert read(folder(tmp_path, generation_config={**drawn, "do_sample": False})).sampling.num_beams == 3


def test_templates_of_a_folder_of_their_own(tmp_path: Path) -> None:
    path = folder(tmp_path, **{"chat_template.jinja": "a"})
    write_folder(path / "additional_chat_templates", **{"tool_use.jinja": "b"})
    assert read(path).chat.templates == {"default": "chat_template.jinja", "tool_use": "chat_template.tool_use.jinja"}


def test_a_template_that_is_none_is_told(tmp_path: Path) -> None:
    assets = read(folder(tmp_path, tokenizer_config={"chat_template": "{% if %}"}))
    assert assets.chat is None
    assert assets.notes[0].startswith("no chat template is used: the chat template 'default' cannot be read: Templ")


def test_extra_tokens_by_name_stand_beside_those_of_the_list(tmp_path: Path) -> None:
    extra = {"additional_special_tokens": ["<|extra|>"], "extra_special_tokens": {"image_token": "<img>"}}
    path = folder(tmp_path, tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast", **extra})
    ours, theirs = HuggingFaceTokenizer(read(path).files["tokenizer.json"]), open_with_transformers(path)
    text = "a<|extra|><img>b"
    assert ours.encode(text).tolist() == theirs(text)["input_ids"]
    assert len(ours.encode(text)) == 4


def test_special_tokens_of_templates_are_those_of_transformers(made: dict[str, Path]) -> None:
    theirs = open_with_transformers(made["as it is"])
    assert read(made["as it is"]).chat.special_tokens == theirs.special_tokens_map


def refused(path: Path, message: str, error: type[AigcError], **arguments: Any) -> None:
    with pytest.raises(error, match=message):
        read(path, **arguments)


REFUSED: dict[str, tuple[Callable[[Path], Path], str, type[AigcError]]] = {
    "another end": (
        lambda p: folder(
            p, tokenizer_config={"eos_token": "<|im_end|>"}, config={"model_type": "llama", "eos_token_id": 0}
        ),
        r"the tokenizer's eos_token '<\|im_end\|>' is 2, the model's eos_token_id is 0\nget the tokenizer that",
        ConfigError,
    ),
    "another beginning": (
        lambda p: folder(
            p,
            byte_level(bos=True),
            tokenizer_config={"bos_token": "<|im_start|>"},
            config={"model_type": "llama", "bos_token_id": 7},
        ),
        r"the tokenizer's bos_token '<\|im_start\|>' is 1, the model's bos_token_id is 7",
        ConfigError,
    ),
    "an end that is no token": (
        lambda p: folder(p, config={"model_type": "llama", "eos_token_id": 450}),
        "eos_token_id is 450, for which the tokenizer has no token",
        ConfigError,
    ),
    "an end outside the model": (
        lambda p: folder(p, config={"model_type": "llama", "eos_token_id": 500}),
        "eos_token_id is 500, the model has 500 tokens",
        ConfigError,
    ),
    "an end that is no id": (
        lambda p: folder(p, generation_config={"eos_token_id": "</s>"}),
        r"generation_config\.json: eos_token_id is '</s>'\nmust be a token id, or a list of them",
        CheckpointError,
    ),
    "two beginnings": (
        lambda p: folder(p, config={"model_type": "llama", "bos_token_id": [1, 2]}),
        "bos_token_id or pad_token_id is a list",
        CheckpointError,
    ),
    "code": (
        lambda p: folder(p, tokenizer_config={"auto_map": {"AutoTokenizer": ["a.B", None]}}),
        r"asks for code of its own \(auto_map\), which is not run",
        ConfigError,
    ),
    "split specials": (
        lambda p: folder(p, tokenizer_config={"split_special_tokens": True}),
        "has split_special_tokens, which is not supported",
        ConfigError,
    ),
    "damaged": (
        lambda p: folder(p, b'{"model"'),
        r"tokenizer\.json is not JSON: .*\nthe file is damaged",
        CheckpointError,
    ),
    "deep": (lambda p: folder(p, b"[" * 100_000), r"tokenizer\.json is not JSON", CheckpointError),
    "a list": (lambda p: folder(p, b"[]"), r"tokenizer\.json holds a list, expected an object", CheckpointError),
    "no model": (lambda p: folder(p, b"{}"), r"tokenizer\.json (has no 'model'|cannot be read)", CheckpointError),
    "not UTF-8": (
        lambda p: (folder(p), (p / "chat_template.jinja").write_bytes(b"\xff"))[0],
        r"chat_template\.jinja is not UTF-8",
        CheckpointError,
    ),
    "foreign parts": (
        lambda p: folder(p, edited(byte_level(), decoder={"type": "Nothing"})),
        r"tokenizer\.json cannot be read",
        CheckpointError,
    ),
    "a strange template": (
        lambda p: folder(p, tokenizer_config={"chat_template": [{"name": "a"}]}),
        "chat_template is .*\nmust be a template, or a list of objects",
        CheckpointError,
    ),
    "a strange token": (
        lambda p: folder(p, tokenizer_config={"eos_token": 7}),
        "eos_token holds 7\na token is its text, or an object with 'content'",
        CheckpointError,
    ),
    "strange added tokens": (
        lambda p: folder(p, tokenizer_config={"added_tokens_decoder": {"x": "y"}}),
        "added_tokens_decoder is .*\nmust map ids to tokens",
        CheckpointError,
    ),
    "an added token of no id": (
        lambda p: folder(p, added_tokens={"<w>": "x"}),
        r"added_tokens\.json gives a token the id 'x'\nmust be a whole number from 0",
        CheckpointError,
    ),
    "an added token of half an id": (
        lambda p: folder(p, edited(byte_level(), added_tokens=[{"content": "<w>", "id": 1.5}])),
        "added_tokens gives a token the id 1.5",
        CheckpointError,
    ),
    "added tokens that are no list": (
        lambda p: folder(p, edited(byte_level(), added_tokens=7)),
        "added_tokens is 7\nmust be a list of tokens",
        CheckpointError,
    ),
    "special tokens that are no list": (
        lambda p: folder(p, special_tokens_map={"additional_special_tokens": 7}),
        "additional_special_tokens is 7\nmust be a list of tokens",
        CheckpointError,
    ),
    "a digit that is none": (
        lambda p: folder(p, tokenizer_config={"added_tokens_decoder": {"²": "<w>"}}),
        "added_tokens_decoder is .*\nmust map ids to tokens",
        CheckpointError,
    ),
    "half a character": (
        lambda p: folder(p, tokenizer_config={"eos_token": "\ud83d"}),
        r"tokenizer_config\.json is not JSON: half of a surrogate pair",
        CheckpointError,
    ),
    "half a character in the vocabulary": (
        lambda p: folder(p, json.dumps({"model": {"type": "BPE", "vocab": {"\ud83d": 0}, "merges": []}}).encode()),
        r"tokenizer\.json is not JSON: half of a surrogate pair",
        CheckpointError,
    ),
    "an id that the library would count to": (
        lambda p: folder(p, with_token("<w>", 2**24 + 1), tokenizer_config={"eos_token": "<new>"}),
        r"tokenizer\.json cannot be read: a token has the id 16,777,217",
        CheckpointError,
    ),
    "a strange option": (
        lambda p: folder(p, generation_config={"repetition_penalty": "high"}),
        r"generation_config\.json: repetition_penalty is 'high'",
        CheckpointError,
    ),
    "a vocabulary without a class": (
        lambda p: write_folder(
            p,
            config={"model_type": "granite"},
            vocab={"a": 0},
            **{"merges.txt": "#version: 0.2\n"},
        ),
        r"no tokenizer\.json, and vocab\.json and merges\.txt of class .* cannot be converted here\n",
        ConfigError,
    ),
    "SentencePiece alone": (
        lambda p: write_folder(p, config={"model_type": "llama"}, **{"tokenizer.model": "no model"}),
        r"no tokenizer\.json, and tokenizer\.model cannot be converted here\nget the model's tokenizer.json",
        ConfigError,
    ),
}


@pytest.mark.parametrize("value", ["", [""], [5], 5, {"a": 1}, False])
def test_stop_strings_that_are_none(tmp_path: Path, value: Any) -> None:
    with pytest.raises(
        CheckpointError, match=r"generation_config\.json: stop_strings is .*\nmust be a text, or a list"
    ):
        read(folder(tmp_path, generation_config={"stop_strings": value}))


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_is_refused(tmp_path: Path, name: str) -> None:
    make, message, error = REFUSED[name]
    refused(make(tmp_path), message, error)


def test_a_tokenizer_of_more_tokens_than_the_model_has(tmp_path: Path) -> None:
    path = folder(tmp_path)
    assert read(path, vocab_size=400).tokenizer.kind == "huggingface"
    message = r"tokenizer\.json has 400 tokens, the model 399\nit is another model's"
    refused(path, message, ConfigError, vocab_size=399)


def test_enormous_files_are_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files_module, "MAX_TOKENIZER_BYTES", 1000)
    refused(folder(tmp_path), r"tokenizer\.json' is larger than 1,000 bytes", CheckpointError)
    monkeypatch.setattr(text_files_module, "MAX_CONFIG_BYTES", 10)
    (tmp_path / "tokenizer.json").write_bytes(b"{}")
    path = folder(tmp_path, b"{}", tokenizer_config={"a": "long enough"})
    refused(path, r"tokenizer_config\.json' is larger than 10 bytes", CheckpointError)


def test_too_many_templates(tmp_path: Path) -> None:
    path = folder(tmp_path)
    write_folder(path / "additional_chat_templates", **{f"t{i}.jinja": "a" for i in range(17)})
    refused(path, "additional_chat_templates holds 17 templates\nat most 16", CheckpointError)


def test_classes_that_only_transformers_knows_need_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aigc_models.text_assets import by_transformers

    path = write_folder(
        tmp_path, unigram(), config={"model_type": "t5"}, tokenizer_config={"tokenizer_class": "T5Tokenizer"}
    )
    monkeypatch.setattr(by_transformers, "transformers_version", lambda: None)
    assets = read(path)
    assert assets.files["tokenizer.json"] == unigram()
    assert "as it is" in assets.notes[0]


def test_a_llama_of_pieces_is_read_as_it_is(tmp_path: Path) -> None:
    path = write_folder(
        tmp_path, llama_like(), config={"model_type": "llama"}, tokenizer_config={"tokenizer_class": "LlamaTokenizer"}
    )
    first = read(path).files["tokenizer.json"]
    assert json.loads(first)["normalizer"] is None
