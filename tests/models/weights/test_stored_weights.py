"""Weights are read from the disk one tensor at a time, and their digest is that of the bytes that were read."""

from __future__ import annotations

import hashlib
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from aigc_models.weights.checkpoint import load_checkpoint
from aigc_models.weights.stored_weights import StoredWeights
from aigc_runtime.errors import CheckpointError

from .sharded import INDEX, shard_name, write_shards

TENSORS = {"b": torch.arange(6.0).view(2, 3), "a": torch.tensor([1.5, -2.0]).bfloat16(), "n": torch.tensor(7)}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "run", [{"b": TENSORS["b"]}, {"a": TENSORS["a"], "n": TENSORS["n"]}])


def test_the_tensors_of_all_shards_by_name(shards: Path) -> None:
    weights = StoredWeights(shards / INDEX)
    assert weights.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(weights[name], tensor)
        described = weights.described()[name]
        assert (described.shape, described.dtype, described.is_meta) == (tensor.shape, tensor.dtype, True)
    assert weights.float32_bytes == 4 * (6 + 2 + 1)
    with pytest.raises(KeyError):
        weights["c"]


def test_the_digest_of_one_file_is_the_files(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(save(TENSORS))
    expected = hashlib.sha256((tmp_path / "x").read_bytes()).hexdigest()
    assert StoredWeights(tmp_path / "x").sha256 == expected
    weights = StoredWeights(tmp_path / "x")
    assert len(list(weights.stream())) == 3
    (tmp_path / "x").unlink()
    assert weights.sha256 == expected  # known from reading


def test_the_digest_of_shards_is_that_of_the_digests_that_sha256sum_prints(shards: Path) -> None:
    names = (INDEX, shard_name(0, 2), shard_name(1, 2))
    printed = "".join(f"{hashlib.sha256((shards / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    expected = hashlib.sha256(printed.encode()).hexdigest()
    assert load_checkpoint(shards).sha256 == expected
    assert load_checkpoint(shards / INDEX).sha256 == expected


@pytest.mark.parametrize("changed", [INDEX, shard_name(0, 2), shard_name(1, 2)])
def test_every_file_counts_in_the_digest(shards: Path, changed: str) -> None:
    before = load_checkpoint(shards).sha256
    data = (shards / changed).read_bytes()
    (shards / changed).write_bytes(data + b" " if changed == INDEX else data[:-1] + bytes([data[-1] ^ 1]))
    assert load_checkpoint(shards).sha256 != before


def test_a_shard_that_is_replaced_while_the_others_are_read(shards: Path) -> None:
    weights = StoredWeights(shards / INDEX)
    streamed = weights.stream()
    next(streamed)
    (shards / shard_name(1, 2)).write_bytes(save({"a": TENSORS["a"], "n": TENSORS["n"], "more": TENSORS["n"].clone()}))
    with pytest.raises(CheckpointError, match="was changed while it was read"):
        list(streamed)


def test_no_more_than_one_tensor_is_in_memory(tmp_path: Path) -> None:
    """Numbers of NumPy and buffers of Python are traced; torch's own are those of one tensor, freed before the next."""
    (tmp_path / "x").write_bytes(save({f"t{i}": torch.zeros(2**16) for i in range(64)}))
    weights = StoredWeights(tmp_path / "x")
    target = torch.empty(2**16)
    tracemalloc.start()
    for _, tensor in weights.stream(lambda _: target):
        assert tensor is target
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**18
