from __future__ import annotations

import hashlib
import json
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save
from torch import nn

from aigc_models.weights.checkpoint import CONFIG_FILE, WEIGHTS_FILE, load_checkpoint, save_checkpoint
from aigc_models.weights.load_into import load_into
from aigc_runtime.errors import CheckpointError, OutputError


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


@pytest.fixture
def folder(tmp_path: Path, model: nn.Module) -> Path:
    save_checkpoint(tmp_path / "run", model, {"family": "x", "sizes": [1, 2]})
    return tmp_path / "run"


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_what_was_saved_is_loaded(folder: Path, model: nn.Module) -> None:
    found = load_checkpoint(folder)
    assert found.config == {"family": "x", "sizes": [1, 2]}
    assert found.sha256 == hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
    torch.manual_seed(1)
    other = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    load_into(other, found.tensors)
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


def test_the_weights_are_plain_safetensors_that_anyone_may_read(folder: Path, model: nn.Module) -> None:
    assert load_file(folder / WEIGHTS_FILE).keys() == model.state_dict().keys()
    assert (folder / WEIGHTS_FILE).stat().st_mode & 0o777 == 0o644


def test_a_weights_file_is_found_with_its_config_beside_it(folder: Path) -> None:
    assert load_checkpoint(folder / WEIGHTS_FILE).config == load_checkpoint(folder).config


def test_extra_files_are_written_and_a_new_save_replaces_the_folder(folder: Path, model: nn.Module) -> None:
    save_checkpoint(
        folder, model, {}, extra_json={"q.json": {"a": 1}}, extra_tensors={"t.safetensors": {"x": torch.ones(2)}}
    )
    assert json.loads((folder / "q.json").read_text()) == {"a": 1}
    assert torch.equal(load_file(folder / "t.safetensors")["x"], torch.ones(2))
    save_checkpoint(folder, model, {})
    assert sorted(contents(folder)) == [CONFIG_FILE, WEIGHTS_FILE]


def test_tied_weights_are_saved_under_both_names(tmp_path: Path) -> None:
    tied = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    tied[1].weight = tied[0].weight
    save_checkpoint(tmp_path / "tied", tied, {})
    tensors = load_checkpoint(tmp_path / "tied").tensors
    assert torch.equal(tensors["0.weight"], tensors["1.weight"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_neither_written_nor_loaded(folder: Path, model: nn.Module, bad: float) -> None:
    before = contents(folder)
    tensors = {k: v.clone() for k, v in model.state_dict().items()}
    tensors["0.weight"][1, 1] = bad
    for attempt in (lambda: save_checkpoint(folder, tensors, {}), lambda: load_into(model, tensors)):
        with pytest.raises(CheckpointError, match=r"tensor '0\.weight' holds 1 values that are NaN or infinite"):
            attempt()
    assert contents(folder) == before


def test_a_full_disk_leaves_the_old_checkpoint(folder: Path) -> None:
    before, siblings = contents(folder), sorted(folder.parent.iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OutputError, match="what was there before is unchanged"):
            save_checkpoint(folder, nn.Linear(100, 100), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(folder) == before
    assert sorted(folder.parent.iterdir()) == siblings


def test_a_content_that_is_no_json_leaves_the_old_checkpoint(folder: Path, model: nn.Module) -> None:
    before = contents(folder)
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_checkpoint(folder, model, {}, extra_json={"quality.json": {"accuracy": float("nan")}})
    assert contents(folder) == before


def test_somebody_elses_folder_is_not_replaced(tmp_path: Path, model: nn.Module) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(OutputError, match=r"holds files but no config\.json"):
        save_checkpoint(tmp_path, model, {})
    assert contents(tmp_path) == {"holiday.jpg": b"x"}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("inside", [True, False], ids=["in a folder", "alone"])
def test_a_pickled_file_is_never_opened(tmp_path: Path, model: nn.Module, zipped: bool, inside: bool) -> None:
    file = tmp_path / (WEIGHTS_FILE if inside else "model.pt")
    torch.save(model.state_dict(), file, _use_new_zipfile_serialization=zipped)
    if inside:
        (tmp_path / CONFIG_FILE).write_text("{}")
    with pytest.raises(CheckpointError, match=r"pickle-based PyTorch file(.|\n)*safetensors\.torch\.save_file"):
        load_checkpoint(tmp_path if inside else file)


@pytest.mark.parametrize("size", [128, int.from_bytes(b"PK", "little")], ids=["0x80", "PK"])
def test_a_header_whose_size_looks_like_a_pickle_is_none(folder: Path, size: int) -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode().ljust(size)
    (folder / WEIGHTS_FILE).write_bytes(size.to_bytes(8, "little") + header + bytes(4))
    assert torch.equal(load_checkpoint(folder).tensors["x"], torch.zeros(1))


@pytest.mark.parametrize("keep", [0, 4, 8, 60, -1])
def test_a_file_that_is_cut_short(folder: Path, keep: int) -> None:
    file = folder / WEIGHTS_FILE
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"(is cut short|is corrupt)(.|\n)*copy it again"):
        load_checkpoint(folder)


def test_a_name_that_occurs_twice(folder: Path) -> None:
    data = save({"aa": torch.ones(1), "bb": torch.zeros(1)}).replace(b'"bb"', b'"aa"')
    (folder / WEIGHTS_FILE).write_bytes(data)
    with pytest.raises(CheckpointError, match="duplicate key 'aa'"):
        load_checkpoint(folder)


@pytest.mark.parametrize("header", [b"[]", b"{", b"\xff\xff", b'{"a": NaN}'])
def test_a_header_that_is_none(folder: Path, header: bytes) -> None:
    (folder / WEIGHTS_FILE).write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [("[]", "is not a JSON object"), ('{"a": 1, "a": 2}', "duplicate key 'a'"), ("{", "is not valid"), ("NaN", "NaN")],
)
def test_a_bad_config(folder: Path, config: str, message: str) -> None:
    (folder / CONFIG_FILE).write_text(config)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


def test_a_config_too_large_to_be_one(folder: Path) -> None:
    (folder / CONFIG_FILE).write_text('"' + "a" * 1024 * 1024 + '"')
    with pytest.raises(CheckpointError, match="larger than 1,048,576 bytes"):
        load_checkpoint(folder)


@pytest.mark.parametrize("missing", [CONFIG_FILE, WEIGHTS_FILE])
def test_half_a_checkpoint(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(CheckpointError, match=f"has no {missing}\na checkpoint is a folder with"):
        load_checkpoint(folder)


def test_a_tensor_of_another_shape_is_named_with_both(model: nn.Module) -> None:
    tensors = {**model.state_dict(), "0.weight": torch.ones(4, 5)}
    with pytest.raises(CheckpointError, match=r"tensor '0\.weight' has shape \[4, 5\], expected \[4, 3\]"):
        load_into(model, tensors)


def test_a_missing_tensor_is_named_with_the_nearest(model: nn.Module) -> None:
    tensors = dict(model.state_dict())
    tensors["0.weigt"] = tensors.pop("0.weight")
    with pytest.raises(
        CheckpointError, match=r"lacks tensor '0\.weight' of shape \[4, 3\]\nnearest in the file: '0\.weigt'"
    ):
        load_into(model, tensors)


def test_an_unexpected_tensor_is_named_with_the_nearest(model: nn.Module) -> None:
    tensors = {**model.state_dict(), "1.weights": torch.ones(4)}
    with pytest.raises(
        CheckpointError, match=r"'1\.weights' that the model does not have\nnearest in the model: '1\.weight'"
    ):
        load_into(model, tensors)


def test_nothing_is_loaded_where_something_is_wrong(model: nn.Module) -> None:
    before = {k: v.clone() for k, v in model.state_dict().items()}
    tensors = {k: torch.ones_like(v) for k, v in model.state_dict().items()}
    tensors["1.running_var"] = torch.full((4,), torch.inf)
    with pytest.raises(CheckpointError):
        load_into(model, tensors)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
