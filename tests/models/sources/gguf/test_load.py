"""A GGUF file is a program: its name, weights, tokenizer, chat and how it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.models.sources.gguf.small_files import write_model
from tests.models.sources.gguf.test_tokenizer_json import byte_level
from tests.models.sources.gguf.texts import TEXTS
from tests.models.sources.transformers.small_models import small_model

from aigc_models.sources import outline, resolve
from aigc_models.sources.gguf.load import is_gguf
from aigc_runtime.errors import CheckpointError, ConfigError, UnknownNameError
from aigc_runtime.generation.chat import ChatTemplate
from aigc_runtime.generation.tokenizers import TokenizerRequest, make_tokenizer

TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{{ eos_token }}{% endfor %}"
OPTIONS = {"bos_token_id": 420, "eos_token_id": 420, "eot_token_id": 421, "padding_token_id": 421}


@pytest.fixture(scope="module")
def model() -> Any:
    return small_model("llama", vocab_size=430, num_hidden_layers=2)


def write(path: Path, model: Any, **more: Any) -> str:
    values = {key: _plain(value) for key, value in byte_level("smollm", **OPTIONS).items()}
    write_model(path, model, kind="llama", values={**values, "tokenizer.chat_template": TEMPLATE, **more})
    return str(path)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def test_a_file_is_a_program(model: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("not read")
    path = write(tmp_path / "Small-1.0.Q8_0.gguf", model, **{"general.sampling.temp": 0.5, "general.sampling.top_k": 3})
    program = resolve(path, options={"cache": "buffer", "context_length": 64})
    assert (program.name, program.source, program.kind) == ("Small-1.0.Q8_0", path, "text")
    source, known = outline(path)
    assert (source, known.family, known.parameters) == ("gguf", "llama", model.num_parameters())
    settings = program.settings
    assert (settings.vocab_size, settings.context_length) == (430, 64)
    assert (settings.bos_token_id, settings.eos_token_ids, settings.pad_token_id) == (420, (420, 421), 421)
    assert (settings.sampling.temperature, settings.sampling.top_k) == (0.5, 3)
    request = TokenizerRequest(info=settings.tokenizer, vocab_size=430, assets=program.assets, bos=420, others=(421,))
    tokenizer = make_tokenizer(request)
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    chat = ChatTemplate.of(settings.chat, program.assets)
    assert chat.render([{"role": "user", "content": "hi"}]) == "<|end|>[user]hi<|end|>"
    assert not any("quantized" in note for note in program.notes)
    assert program.checkpoint is not None
    assert len(program.weights_sha256) == 64


def test_a_model_without_a_tokenizer_takes_ids(model: Any, tmp_path: Path) -> None:
    write_model(tmp_path / "m.gguf", model, kind="llama")
    assert resolve(str(tmp_path / "m.gguf")).settings.tokenizer.kind == "none"


def test_options_that_it_does_not_have_are_refused(model: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", model)
    with pytest.raises(ConfigError, match="holds its weights itself"):
        resolve(path, options={"checkpoint": "x"})
    with pytest.raises(UnknownNameError, match="dynamic_size"):
        resolve(path, options={"dynamic_size": True})


def test_what_is_damaged_is_said_with_its_path(model: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", model, **{"tokenizer.ggml.pre": "other"})
    with pytest.raises(CheckpointError, match=r"m\.gguf.*tokenizer\.ggml\.pre is 'other'"):
        resolve(path)
    Path(path).write_bytes(b"no such format")
    with pytest.raises(CheckpointError, match="not a GGUF file"):
        resolve(path)


def test_a_file_is_known_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "folder.gguf").mkdir()
    assert is_gguf(tmp_path / "a.GGUF")
    assert not is_gguf(tmp_path / "folder.gguf")
    assert not is_gguf(tmp_path / "a.safetensors")


def test_a_folder_of_files_asks_which_is_meant(model: Any, tmp_path: Path) -> None:
    write(tmp_path / "b.gguf", model)
    write(tmp_path / "a.gguf", model)
    with pytest.raises(CheckpointError, match="but GGUF files") as caught:
        resolve(str(tmp_path))
    assert str(tmp_path / "a.gguf") in caught.value.hint
