"""A checkpoint keeps what it is judged and calibrated on, apart from each other, and notices when that was changed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from aigc_export.workloads.evaluate import is_evaluated_elsewhere, program_evaluation
from aigc_models.data.kept_data import MAX_KEPT_BYTES, data_files, data_name, read_kept
from aigc_models.data.text_data import TextData, load_text
from aigc_models.sources.shipped import load_shipped
from aigc_models.training import families
from aigc_models.weights.checkpoint import load_checkpoint, save_checkpoint
from aigc_runtime.errors import CheckpointError, InputError


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def test_small_text_is_kept_whole(tmp_path: Path) -> None:
    text = TextData(train_pieces=(b"a\nb", b"c"), held_out_pieces=(b"d\xff", b"e"))
    kept, pieces = read_kept(write(tmp_path / "x", data_files("poems", text)))
    assert pieces == {"held_out": text.held_out_pieces, "calibration": text.train_pieces}
    assert kept is not None
    assert (kept.name, kept.held_out.bytes_in_all, kept.calibration.bytes_in_all) == ("poems", 3, 4)  # type: ignore[union-attr]
    assert (tmp_path / "x" / "held_out.txt").read_bytes() == b"d\xff\ne"


def test_of_much_text_stretches_from_everywhere_are_kept(tmp_path: Path) -> None:
    numbers = b"".join(b"%9d" % i for i in range(400_000))  # 3.6 MB
    pieces = (numbers[:1_000_000], numbers[1_000_000:1_000_010], numbers[1_000_010:])
    text = TextData(train_pieces=(b"x" * 5000,), held_out_pieces=pieces)
    kept, found = read_kept(write(tmp_path / "x", data_files("numbers", text)))
    total = sum(map(len, found["held_out"]))
    assert 0.9 * MAX_KEPT_BYTES < total <= MAX_KEPT_BYTES
    starts = [numbers.find(piece) for piece in found["held_out"]]
    assert starts == sorted(starts)
    assert starts[0] == 0
    assert starts[-1] > 0.97 * len(numbers)
    for one, other, piece in zip(starts, starts[1:], found["held_out"], strict=False):
        assert one + len(piece) <= other  # nothing is kept twice
    assert all(any(piece in whole for whole in pieces) for piece in found["held_out"])
    assert kept is not None


def test_a_changed_text_is_refused_by_its_name(tmp_path: Path) -> None:
    text = TextData(train_pieces=(b"a" * 100,), held_out_pieces=(b"b" * 100,))
    save_checkpoint(tmp_path / "x", {"t": torch.ones(1)}, {}, extra_files=data_files("poems", text))
    assert load_checkpoint(tmp_path / "x").held_out == (b"b" * 100,)
    (tmp_path / "x" / "held_out.txt").write_bytes(b"b" * 99 + b"c")
    with pytest.raises(CheckpointError, match=r"held_out\.txt' is not the text that data\.json describes"):
        load_checkpoint(tmp_path / "x")
    (tmp_path / "x" / "held_out.txt").unlink()
    with pytest.raises(CheckpointError, match=r"no such file: .*held_out\.txt"):
        load_checkpoint(tmp_path / "x")
    (tmp_path / "x" / "data.json").unlink()
    assert (load_checkpoint(tmp_path / "x").data, load_checkpoint(tmp_path / "x").held_out) == (None, ())


ENTRY = {"file": "held_out.txt", "sha256": "", "pieces": [], "bytes_in_all": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"held_out": 3}, "data.json.held_out is the number 3"),
        ({"more": 3}, "data.json.more is not a known field"),
        ({"held_out": {**ENTRY, "file": "/etc/passwd", "pieces": [1]}}, "file is '/etc/passwd'"),
        ({"held_out": ENTRY}, "pieces are none"),
    ],
)
def test_a_data_json_that_is_none(change: dict[str, object], message: str, tmp_path: Path) -> None:
    value = {**json.loads(data_files("photos")["data.json"]), **change}
    with pytest.raises(CheckpointError) as caught:
        read_kept(write(tmp_path / "x", {"data.json": json.dumps(value).encode()}))
    assert message in str(caught.value)


def test_the_name_of_the_data() -> None:
    assert data_name("texts/poems/") == data_name("/a/poems") == "poems"
    assert data_name(".") == Path.cwd().name


@pytest.mark.slow
def test_training_keeps_what_it_held_out_and_the_model_is_evaluated_on_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(families, "SAMPLES", 4)
    (tmp_path / "poems").mkdir()
    for i in range(3):
        (tmp_path / "poems" / f"{i}.txt").write_text(f"poem {i}\n" + "".join(f"verse {i} {k}\n" for k in range(700)))
    (tmp_path / "poems" / "cover").write_text("no text by its name")
    report = families.train_family("lm", output=tmp_path / "out", data=tmp_path / "poems", steps=1)
    text = load_text(tmp_path / "poems")
    loaded = load_shipped("lm", checkpoint=tmp_path / "out")
    assert (loaded.checkpoint and loaded.checkpoint.held_out) == text.held_out_pieces
    assert (loaded.checkpoint and loaded.checkpoint.calibration) == text.train_pieces
    found = program_evaluation(loaded)
    assert found.data == "held-out part of 'poems'"
    assert found.sha256 == hashlib.sha256(text.held_out.tobytes()).hexdigest()
    assert not is_evaluated_elsewhere(loaded, found)
    assert report["data"] == found.data
    assert report["training"]["notes"][1:] == [
        f"not read, by their names no texts: {str(tmp_path / 'poems' / 'cover')!r}"
    ]
    named = program_evaluation(loaded, tmp_path / "poems" / "1.txt")
    assert named.data == "'1.txt'"
    assert named.pieces == ((tmp_path / "poems" / "1.txt").read_bytes(),)
    (tmp_path / "short.txt").write_text("short")
    with pytest.raises(InputError, match="holds 5 bytes to evaluate on"):
        program_evaluation(loaded, tmp_path / "short.txt")
    (tmp_path / "out" / "data.json").unlink()
    elsewhere = load_shipped("lm", checkpoint=tmp_path / "out")
    assert program_evaluation(elsewhere).data.endswith("standard library")
    assert is_evaluated_elsewhere(elsewhere, program_evaluation(elsewhere))
    assert not is_evaluated_elsewhere(load_shipped("lm"), program_evaluation(load_shipped("lm")))
