"""The file's own numbers, read a second time without safetensors; and files that are not what they say."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from aigc_models.sources.shipped import load_shipped
from aigc_models.weights.checkpoint import load_checkpoint, save_checkpoint, shipped_checkpoint
from aigc_models.weights.safetensors_file import open_tensors_file, parse_tensors
from aigc_runtime.errors import CheckpointError

NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}


def second_reader(data: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """Ten lines by the format's description: struct and numpy alone."""
    (size,) = struct.unpack("<Q", data[:8])
    arrays = {}
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name == "__metadata__":
            continue
        first, last = (8 + size + place for place in entry["data_offsets"])
        if entry["dtype"] == "BF16":  # the upper half of a float32
            wide = np.frombuffer(data[first:last], "<u2").astype("<u4") << 16
            arrays[name] = wide.view("<f4").reshape(entry["shape"])
        else:
            arrays[name] = np.frombuffer(data[first:last], NUMPY[entry["dtype"]]).reshape(entry["shape"])
    return arrays


def written(header: dict[str, Any] | bytes, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(first: int, last: int, shape: list[int] | None = None, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [(last - first) // 4] if shape is None else shape, "data_offsets": [first, last]}


@pytest.mark.parametrize("name", ["lm", "unet", "gan"])
def test_the_module_holds_the_files_own_numbers(name: str) -> None:
    arrays = second_reader((shipped_checkpoint(name) / "model.safetensors").read_bytes())
    state = load_shipped(name).part.module.state_dict()
    assert {f"model.{key}" for key in arrays} == state.keys()
    for key, array in arrays.items():
        np.testing.assert_array_equal(state[f"model.{key}"].numpy(), array, strict=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_floats_become_float32_with_the_same_values(dtype: torch.dtype, tmp_path: Path) -> None:
    loaded = load_checkpoint(shipped_checkpoint("gan"))
    halves = {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in loaded.tensors.items()}
    save_checkpoint(tmp_path / "half", halves, loaded.config)
    found = load_shipped("gan", checkpoint=tmp_path / "half")
    floats = sum(t.is_floating_point() for t in halves.values())
    assert found.notes == (f"{floats} tensors of {str(dtype)[6:]} became float32, every number as it was",)
    for key, array in second_reader((tmp_path / "half" / "model.safetensors").read_bytes()).items():
        ours = found.part.module.state_dict()[f"model.{key}"].numpy()
        np.testing.assert_array_equal(ours, array.astype(ours.dtype), strict=True)


def test_all_types_and_sizes_are_read_as_the_second_reader_reads_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        f"{name}.{len(shape)}": torch.from_numpy(rng.integers(0, 100, shape).astype(kind))
        for name, kind in NUMPY.items()
        for shape in ((), (0, 3), (5,), (2, 3))
    }
    tensors["bf16"] = torch.tensor([1.0, -0.0, 3e38, 1e-40]).to(torch.bfloat16)
    data = save(tensors, {"free": "text"})
    (tmp_path / "x").write_bytes(data)
    found, file = parse_tensors(data, what="x"), open_tensors_file(tmp_path / "x")
    assert found.metadata == file.metadata == {"free": "text"}
    seen = bytearray()
    streamed = dict(file.stream(lambda _: None, seen=seen.extend))
    assert bytes(seen) == data
    arrays = second_reader(data)
    assert arrays.keys() == streamed.keys() == file.tensors.keys()
    for name, array in arrays.items():
        for tensor in (found.tensors[name], streamed[name], file.read(name)):
            assert tensor.dtype == tensors[name].dtype
            np.testing.assert_array_equal(tensor.float().numpy(), array.astype(np.float32), strict=True)


def test_numbers_go_where_they_belong_if_the_type_is_the_same(tmp_path: Path) -> None:
    numbers = torch.arange(6, dtype=torch.float32).view(2, 3)
    (tmp_path / "x").write_bytes(save({"same": numbers, "half": numbers.half(), "turned": numbers.clone()}))
    places = {"same": torch.zeros(2, 3), "half": torch.zeros(2, 3), "turned": torch.zeros(3, 2).T}
    for name, tensor in open_tensors_file(tmp_path / "x").stream(places.get, seen=lambda _: None):
        assert (tensor is places[name]) == (name == "same"), name
        assert torch.equal(tensor.float(), numbers)


def test_a_file_that_changes_after_its_header_was_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(save({"a": torch.ones(2), "b": torch.ones(2)}))
    file = open_tensors_file(path)
    streamed = file.stream(lambda _: None, seen=lambda _: None)
    next(streamed)
    path.write_bytes(save({"a": torch.ones(2), "b": torch.zeros(2)}))
    os.utime(path, ns=(0, file.changed[1] + 1))
    for read in (lambda: next(streamed), lambda: file.read("a")):
        with pytest.raises(CheckpointError, match="was changed while it was read"):
            read()


A, B = entry(0, 8), entry(8, 16)
FAULTS: dict[str, tuple[dict[str, Any] | bytes, int, str]] = {
    "a gap": ({"a": A, "b": entry(12, 20)}, 20, "tensor 'b' lies 4 bytes behind tensor 'a'"),
    "a gap at the front": ({"a": entry(4, 12)}, 12, "tensor 'a' lies 4 bytes behind the header"),
    "an overlap": ({"a": A, "b": entry(4, 12)}, 12, "tensor 'b' overlaps tensor 'a'"),
    "the same bytes twice": ({"a": A, "b": A}, 8, "tensor 'b' overlaps tensor 'a'"),
    "bytes behind": ({"a": A, "b": B}, 19, "holds 3 bytes behind its last tensor"),
    "only bytes": ({}, 3, "holds 3 bytes behind its last tensor"),
    "too few": ({"a": A, "b": B}, 12, "is cut short: tensor 'b' ends at byte 16 of 12"),
    "turned": ({"a": entry(8, 0, [2])}, 8, "tensor 'a' has shape [2] and data_offsets [8, 0]"),
    "another size": ({"a": entry(0, 8, [3])}, 8, "tensor 'a' of type F32 and shape [3] needs 12 bytes"),
    "a negative size": ({"a": entry(0, 8, [-2])}, 8, "tensor 'a' has shape [-2]"),
    "a broken size": ({"a": {**A, "shape": [2.0]}}, 8, "tensor 'a' has shape [2.0]"),
    "a true size": ({"a": {**A, "shape": [True]}}, 8, "tensor 'a' has shape [True]"),
    "three places": ({"a": {**A, "data_offsets": [0, 4, 8]}}, 8, "tensor 'a' has shape [2] and data_offsets [0, 4, 8]"),
    "no type": ({"a": {"shape": [2], "data_offsets": [0, 8]}}, 8, "'a' is described by shape, data_offsets, expected"),
    "a further field": ({"a": {**A, "scale": 2}}, 8, "'a' is described by dtype, shape, data_offsets, scale"),
    "a type that is a list": ({"a": {**A, "dtype": ["F32"]}}, 8, "is of type ['F32'], which is not read"),
    "a list": ({"a": [1]}, 8, "tensor 'a' is described by list"),
    "an fp8 code": ({"a": entry(0, 8, [8], "F8_E4M3")}, 8, "tensor 'a' is of type 'F8_E4M3', which is not read"),
    "an unknown type": ({"a": entry(0, 8, [2], "F31")}, 8, "tensor 'a' is of type 'F31'"),
    "metadata of another kind": ({"__metadata__": {"a": 1}, "a": A}, 8, "__metadata__ of its header is not an object"),
    "a name twice": (b'{"a":' + json.dumps(A).encode() + b',"a":' + json.dumps(B).encode() + b"}", 16, "key 'a'"),
}


@pytest.mark.parametrize("fault", list(FAULTS))
@pytest.mark.parametrize("on_disk", [False, True])
def test_a_file_that_does_not_fit_its_header_is_refused_by_the_tensors_name(
    fault: str, on_disk: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header, size, message = FAULTS[fault]
    data = written(header, bytes(size))
    monkeypatch.chdir(tmp_path)
    Path("x.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        open_tensors_file(Path("x.safetensors")) if on_disk else parse_tensors(data, what="x.safetensors")
    assert message in str(caught.value)
    assert "'x.safetensors'" in str(caught.value)
    assert caught.value.hint


def test_the_order_in_the_header_does_not_matter() -> None:
    data = written({"b": B, "none": entry(8, 8), "a": A}, np.arange(4, dtype="<f4").tobytes())
    found = parse_tensors(data, what="x").tensors
    assert {name: tensor.tolist() for name, tensor in found.items()} == {"b": [2, 3], "none": [], "a": [0, 1]}


def test_a_header_of_many_tensors() -> None:
    count = 20_000
    header = {f"layer.{i}": entry(4 * i, 4 * i + 4) for i in range(count)}
    found = parse_tensors(written(header, np.arange(count, dtype="<f4").tobytes()), what="x").tensors
    assert [int(found[f"layer.{i}"]) for i in (0, 7, count - 1)] == [0, 7, count - 1]


@pytest.mark.parametrize("start", [b"", written({"a": entry(0, 4)}, bytes(4)), b"PK\3\4", b"GGUF"])
def test_a_file_larger_than_memory_is_refused_by_its_beginning(start: bytes, tmp_path: Path) -> None:
    """A terabyte that takes no room on the disk was read until the memory was full."""
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(start)
        file.truncate(2**40 - 1)
    with pytest.raises(CheckpointError, match=str(path)):
        load_checkpoint(tmp_path)


def test_a_gguf_file_by_another_name_is_told_its_own(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(CheckpointError, match=r"is a GGUF file by another name\nrename it: .* end with \.gguf"):
        load_checkpoint(tmp_path)


def test_a_whole_file_is_taken(tmp_path: Path) -> None:
    for name in ("lm", "unet", "gan"):
        open_tensors_file(shipped_checkpoint(name) / "model.safetensors")
    (tmp_path / "short").write_bytes(written({"a": entry(0, 4)}, bytes(3)))
    with pytest.raises(CheckpointError, match="'a'"):
        open_tensors_file(tmp_path / "short")
