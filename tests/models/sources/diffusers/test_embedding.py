"""Files of textual inversions: what each form holds and stands for, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from aigc_models.sources.diffusers.embedding import open_embeddings
from aigc_runtime.errors import AigcError, CheckpointError, ConfigError

THREE = torch.arange(12.0).view(3, 4)


class Code:
    """What only code could build."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("echo this must not run",)


def a1111() -> dict[str, Any]:
    """As A1111 writes it: a Parameter among plain values."""
    return {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": torch.nn.Parameter(THREE, requires_grad=False)},
        "name": "style",
        "step": 100,
        "sd_checkpoint": None,
    }


@pytest.mark.parametrize(
    ("file", "content", "token"),
    [
        ("a.safetensors", {"<cat>": THREE}, "<cat>"),
        ("my-style.safetensors", {"emb_params": THREE}, "my-style"),
        ("learned.bin", {"<cat>": THREE}, "<cat>"),
        ("learned.pt", a1111(), "style"),
        ("bare.pt", THREE, "bare"),
    ],
)
def test_forms(file: str, content: Any, token: str, tmp_path: Path) -> None:
    (save_file if file.endswith(".safetensors") else torch.save)(content, tmp_path / file)
    (found,) = open_embeddings([str(tmp_path / file)])
    assert found.token == token
    assert torch.equal(found.of({"text_encoder": 4})["text_encoder"], THREE)
    (named,) = open_embeddings([f"{tmp_path / file}:<other>"])
    assert (named.token, named.digest) == ("<other>", found.digest)
    assert named.sha256 != found.sha256


def test_one_vector_and_folders(tmp_path: Path) -> None:
    save_file({"<cat>": THREE[0].half()}, tmp_path / "learned_embeds.safetensors")
    (found,) = open_embeddings([f"{tmp_path}:<dog>"])
    assert found.token == "<dog>"
    vectors = found.of({"a": 4, "b": 4})
    assert list(vectors) == ["a"]  # the first that fits
    assert torch.equal(vectors["a"], THREE[:1])


def test_vectors_for_two_text_encoders(tmp_path: Path) -> None:
    wide = torch.ones(2, 6)
    save_file({"clip_l": THREE, "clip_g": wide}, tmp_path / "xl.safetensors")
    (found,) = open_embeddings([str(tmp_path / "xl.safetensors")])
    assert found.token == "xl"
    given = found.of({"text_encoder": 4, "text_encoder_2": 6})
    assert torch.equal(given["text_encoder"], THREE)
    assert torch.equal(given["text_encoder_2"], wide)
    with pytest.raises(CheckpointError, match=r"vectors of 6 numbers for text_encoder_2\nit is of another model"):
        found.of({"text_encoder": 4})
    save_file({"<cat>": wide}, tmp_path / "cat.safetensors")
    (of_second,) = open_embeddings([str(tmp_path / "cat.safetensors")])
    assert list(of_second.of({"text_encoder": 4, "text_encoder_2": 6})) == ["text_encoder_2"]
    with pytest.raises(CheckpointError, match=r"vectors of 6 numbers\n.*this one's are of text_encoder 4"):
        of_second.of({"text_encoder": 4})


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.pt", {"<cat>": Code()}, "holds more than tensors, which could run code when loaded"),
        ("a.pt", b"", "is damaged"),
        ("a.safetensors", {"a": THREE, "b": 2 * THREE}, "holds the tensors 'a', 'b'\nsupported are"),
        ("a.safetensors", {"a": torch.ones(2, 3, 4)}, r"a tensor of \[2, 3, 4\], expected vectors"),
        ("a.safetensors", {"a": torch.ones(2, 3, dtype=torch.int64)}, "expected vectors"),
        ("a.safetensors", {"a": torch.ones(1025, 2)}, "has 1025 vectors"),
        ("a.safetensors", {"a": torch.full((2, 3), float("nan"))}, "NaN or infinite"),
        ("a.pt", {"a": 3}, "holds a int, expected vectors"),
        ("a.pt", [THREE], "holds list"),
        ("a.pt", {}, "holds the tensors none"),
    ],
)
def test_files_that_are_refused(file: str, content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / file
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        (save_file if file.endswith(".safetensors") else torch.save)(content, path)
    with pytest.raises(CheckpointError, match=message):
        open_embeddings([str(path)])


def test_requests_that_are_refused(tmp_path: Path) -> None:
    save_file({"a b": THREE}, tmp_path / "a.safetensors")
    file = str(tmp_path / "a.safetensors")
    with pytest.raises(ConfigError, match=r"stands for the token 'a b'\nname one without spaces"):
        open_embeddings([file])
    with pytest.raises(ConfigError, match="two embeddings stand for the token '<cat>'"):
        open_embeddings([f"{file}:<cat>", f"{file}:<cat>"])
    for text, message in (("none.safetensors", "no embedding at"), (str(tmp_path), "no embedding at .*learned_embeds")):
        with pytest.raises(CheckpointError, match=message):
            open_embeddings([text])
    with pytest.raises(AigcError, match="a path of printable characters"):
        open_embeddings(["a\nb"])
