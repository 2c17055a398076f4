"""A tokenizer.json that was converted from a SentencePiece model is held against SentencePiece itself."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tokenizers

from aigc_models.text_assets import read_text_assets, tokenizer_file
from aigc_models.text_assets.by_sentencepiece import check_against_sentencepiece
from aigc_models.text_assets.samples import SENTENCES
from aigc_runtime.errors import CheckpointError, ConfigError

from ...runtime.generation.tokenizers.makers import byte_level, llama_like
from .folders import write_folder


def judged_by(monkeypatch: pytest.MonkeyPatch, data: bytes, *, shift: int = 0) -> None:
    """Put a SentencePiece in place that cuts texts as a tokenizer.json does."""
    tokenizer = tokenizers.Tokenizer.from_str(data.decode())

    class Processor:
        def __init__(self, *, model_file: str) -> None:
            if not Path(model_file).read_bytes():
                raise RuntimeError("could not parse ModelProto")

        def encode(self, text: str) -> list[int]:
            ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
            # Another space in front of a text, and nothing else.
            return [ids[0] + shift, *ids[1:]]

    library: Any = ModuleType("sentencepiece")
    library.SentencePieceProcessor = Processor
    monkeypatch.setitem(sys.modules, "sentencepiece", library)


def folder(path: Path) -> Path:
    return write_folder(
        path,
        config={"model_type": "mistral"},
        tokenizer_config={"tokenizer_class": "LlamaTokenizer", "eos_token": "</s>"},
        **{"tokenizer.model": "a model"},
    )


def test_what_is_cut_alike_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged_by(monkeypatch, llama_like())
    monkeypatch.setattr(tokenizer_file, "transformers_tokenizer", lambda *_: llama_like())
    found = read_text_assets(folder(tmp_path), {"model_type": "mistral"}, vocab_size=500)
    assert found.files["tokenizer.json"] == llama_like()
    assert found.notes == ("tokenizer.model was converted by transformers",)


def test_what_is_cut_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged_by(monkeypatch, llama_like(), shift=1)
    monkeypatch.setattr(tokenizer_file, "transformers_tokenizer", lambda *_: llama_like())
    message = r"tokenizer\.model is not converted as SentencePiece reads it: 'The quick .* begins with the tokens \d+, "
    with pytest.raises(ConfigError, match=message):
        read_text_assets(folder(tmp_path), {"model_type": "mistral"}, vocab_size=500)


def test_every_sentence_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    judged_by(monkeypatch, byte_level())
    processor: Any = sys.modules["sentencepiece"]
    encode = processor.SentencePieceProcessor.encode

    def noted(self: Any, text: str) -> Any:
        asked.append(text)
        return encode(self, text)

    monkeypatch.setattr(processor.SentencePieceProcessor, "encode", noted)
    (tmp_path / "m.model").write_bytes(b"x")
    check_against_sentencepiece(byte_level(), tmp_path / "m.model")
    assert asked == [*SENTENCES]
    assert not any("  " in text or text != text.strip() for text in SENTENCES)


def test_a_judge_that_is_not_there_or_cannot_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.model").write_bytes(b"")
    judged_by(monkeypatch, byte_level())
    with pytest.raises(CheckpointError, match=r"m\.model cannot be read: could not parse"):
        check_against_sentencepiece(byte_level(), tmp_path / "m.model")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ConfigError, match="SentencePiece is not installed\npip install sentencepiece"):
        check_against_sentencepiece(byte_level(), tmp_path / "m.model")


def test_what_transformers_makes_of_a_real_model(tmp_path: Path) -> None:
    library = pytest.importorskip("sentencepiece")
    pytest.importorskip("transformers")
    (tmp_path / "text").write_text("\n".join(SENTENCES * 3), encoding="utf-8")
    path = folder(tmp_path / "model")
    library.SentencePieceTrainer.train(
        input=str(tmp_path / "text"),
        model_prefix=str(path / "tokenizer"),
        vocab_size=900,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    write_folder(path, config={"model_type": "llama"})
    assert read_text_assets(path, {"model_type": "llama"}, vocab_size=900).tokenizer.kind == "huggingface"
    write_folder(path, config={"model_type": "mistral"})
    with pytest.raises(ConfigError, match=r"tokenizer\.model is not converted as SentencePiece reads it"):
        read_text_assets(path, {"model_type": "mistral"}, vocab_size=900)
