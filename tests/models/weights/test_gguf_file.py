"""GGUF files are streamed tensor by tensor into the memory that is given."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.models.weights.gguf_bytes import described, floats, whole

from aigc_models.weights import gguf_file
from aigc_models.weights.gguf_file import GgufFile
from aigc_models.weights.gguf_types import GgufMissingError
from aigc_runtime.errors import CheckpointError

gguf = pytest.importorskip("gguf")

A = np.array([1.5, -2.0, 0.25, 3.0], np.float16)
Q = np.linspace(-1, 1, 4 * 64, dtype=np.float32).reshape(4, 64)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    quantized = gguf.quants.quantize(Q, gguf.GGMLQuantizationType.Q8_0)
    data = floats(*range(6)) + bytes(8) + A.tobytes() + bytes(24) + quantized.tobytes() + b"behind"
    tensors = [
        described("f", (2, 3)),
        described("h", (4,), kind=1, offset=32),
        described("q", (64, 4), kind=8, offset=64),
    ]
    (tmp_path / "model.gguf").write_bytes(whole([], tensors, data))
    return tmp_path / "model.gguf"


def test_tensors_are_read_as_they_are(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_file, "_CHUNK", 100)  # so that a tensor takes several pieces
    file = GgufFile(path)
    place = torch.zeros(4, 64)
    read = dict(file.stream(lambda name: place if name == "q" else None))
    assert read["q"] is place
    expected = gguf.quants.dequantize(
        gguf.quants.quantize(Q, gguf.GGMLQuantizationType.Q8_0), gguf.GGMLQuantizationType.Q8_0
    )
    assert torch.equal(place, torch.from_numpy(expected))
    assert torch.equal(read["f"], torch.arange(6.0).reshape(3, 2))
    assert torch.equal(read["h"], torch.from_numpy(A))
    assert {name: (t.dtype, t.shape) for name, t in file.described().items()} == {
        name: (t.dtype, t.shape) for name, t in read.items()
    }
    assert all(torch.equal(file[name], read[name]) for name in file)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (file.sha256, GgufFile(path).sha256) == (digest, digest)
    assert file.quantized == {"Q8_0": 1}


def test_a_file_that_changes_is_refused(path: Path) -> None:
    file = GgufFile(path)
    os.utime(path, ns=(1, 1))
    with pytest.raises(CheckpointError, match="was changed while it was read"):
        list(file.stream())


def test_floats_need_no_package_and_quantized_numbers_do(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    file = GgufFile(path)
    assert file["h"].tolist() == A.tolist()
    with pytest.raises(GgufMissingError):
        next(iter(file.stream()))


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.gguf"):
        with pytest.raises(CheckpointError):
            GgufFile(path)
