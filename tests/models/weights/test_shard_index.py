"""An index and its shards say the same, or the folder is refused by the name of the tensor and the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from aigc_models.weights.checkpoint import load_checkpoint
from aigc_models.weights.shard_index import is_index, open_shards
from aigc_runtime.errors import CheckpointError

from .sharded import INDEX, edit_index, shard_name, write_shards

A, B, C = torch.ones(2), torch.zeros(3), torch.full((4,), 2.0)
FIRST, SECOND = shard_name(0, 2), shard_name(1, 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "run", [{"a": A, "b": B}, {"c.weight": C}])


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def write_index(folder: Path, content: str) -> None:
    (folder / INDEX).write_text(content)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a shard is missing": (lambda f: (f / SECOND).unlink(), f"names 2 shards, of which 1 are not there: '{SECOND}'"),
    "a shard is cut short": (lambda f: cut(f / SECOND, -1), f"{SECOND}' is cut short: tensor 'c.weight' ends at byte"),
    "a shard is empty": (lambda f: cut(f / FIRST, 0), f"{FIRST}' is not a safetensors file, or is cut short"),
    "a shard is a pickle": (lambda f: (f / FIRST).write_bytes(b"PK\3\4" * 9), "is a pickle-based PyTorch file"),
    "bytes of two tensors overlap": (
        lambda f: (f / FIRST).write_bytes((f / FIRST).read_bytes().replace(b"[8,20]", b"[0,12]")),
        f"{FIRST}': tensor 'b' overlaps tensor 'a'",
    ),
    "a size that does not fit": (
        lambda f: (f / SECOND).write_bytes((f / SECOND).read_bytes().replace(b"[4]", b"[5]")),
        "tensor 'c.weight' of type F32 and shape [5] needs 20 bytes, its data_offsets [0, 16] hold 16",
    ),
    "two shards with one name": (
        lambda f: (f / SECOND).write_bytes(save({"c.weight": C, "a": A})),
        f"tensor 'a' is in two shards, '{FIRST}' and '{SECOND}'",
    ),
    "a tensor that no shard has": (
        lambda f: edit_index(f, d=SECOND),
        f"places tensor 'd' in '{SECOND}', which lacks it",
    ),
    "a tensor in another shard": (
        lambda f: edit_index(f, a=SECOND),
        f"places tensor 'a' in '{SECOND}', but it is in '{FIRST}'",
    ),
    "a tensor that is not named": (lambda f: edit_index(f, b=None), "does not name 1 tensors of its shards: 'b'"),
    "no object": (lambda f: write_index(f, "[]"), "has no weight_map of tensors to file names"),
    "no map": (lambda f: write_index(f, "{}"), "has no weight_map"),
    "an empty map": (lambda f: write_index(f, '{"weight_map": {}}'), "has no weight_map"),
    "a map to numbers": (lambda f: write_index(f, '{"weight_map": {"a": 1}}'), "has no weight_map"),
    "a name twice": (lambda f: write_index(f, '{"weight_map": {"a": "x", "a": "y"}}'), "duplicate key 'a'"),
    "no JSON": (lambda f: write_index(f, "{"), "is not valid"),
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_what_does_not_fit_together_is_refused(folder: Path, fault: str) -> None:
    load_checkpoint(folder)
    change, message = FAULTS[fault]
    change(folder)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    assert message in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    "place",
    [
        "../other/model-00001-of-00002.safetensors",
        "/etc/model.safetensors",
        "sub/model.safetensors",
        "..\\model.safetensors",
        "C:model.safetensors",
        ".safetensors",
        "..safetensors",
        "model.bin",
        "model.safetensors\0.safetensors",
        "",
    ],
)
def test_an_index_never_reaches_outside_its_folder(folder: Path, place: str) -> None:
    write_shards(folder.parent / "other", [{"a": A}, {"b": B}])
    edit_index(folder, a=place)
    with pytest.raises(CheckpointError, match=r"places tensor 'a' in (.|\n)*no \.safetensors file of its folder"):
        load_checkpoint(folder)


def test_all_missing_shards_are_told_together(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "run", [{f"t{i}": A} for i in range(9)])
    for i in range(3, 9):
        (folder / shard_name(i, 9)).unlink()
    with pytest.raises(CheckpointError, match=r"9 shards, of which 6 are not there: '.*' and 3 more"):
        load_checkpoint(folder)


def test_what_is_only_odd_is_told(folder: Path) -> None:
    assert open_shards(folder / INDEX).notes == ()
    index = json.loads((folder / INDEX).read_text())
    index["metadata"]["total_size"] = 7
    write_index(folder, json.dumps(index))
    (folder / shard_name(0, 3)).write_bytes(save({"a": A}))
    assert load_checkpoint(folder).notes == (
        f"{INDEX} does not name '{shard_name(0, 3)}': not read",
        f"{INDEX} says that all tensors have 7 bytes, those of its shards have 36",
    )
    write_index(folder, json.dumps({"weight_map": index["weight_map"]}))
    assert len(load_checkpoint(folder).notes) == 1


def test_links_are_followed_as_model_stores_need(folder: Path) -> None:
    (folder / SECOND).rename(folder.parent / "blob")
    (folder / SECOND).symlink_to(folder.parent / "blob")
    assert load_checkpoint(folder).tensors.keys() == {"a", "b", "c.weight"}


def test_only_the_name_of_an_index_is_one() -> None:
    assert is_index(Path("x") / INDEX)
    assert not is_index(Path("model.safetensors"))
