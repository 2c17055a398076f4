"""Rows of an .npz are read one by one, whatever its size; what is not plain arrays is refused."""

from __future__ import annotations

import io
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aigc_calibration.data import NpzRows, choose_rows
from aigc_calibration.errors import CalibrationError
from aigc_runtime.core.tensors import Array


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_rows_are_those_of_the_arrays(save: Callable[..., None], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, Array] = {
        "a": rng.standard_normal((50, 2, 3)).astype(np.float32),
        "b": np.arange(50),
        "c": np.zeros((50, 0)),
    }
    save(tmp_path / "x.npz", **arrays)
    source = NpzRows(tmp_path / "x.npz")
    assert {n: (c.dtype, c.shape) for n, c in source.columns.items()} == {
        n: (a.dtype, a.shape) for n, a in arrays.items()
    }
    chosen = np.array([0, 3, 4, 48, 49])
    for whole in (False, True):
        batches = list(source.batches(chosen, 2, whole=whole))
        assert [len(b["b"]) for b in batches] == [2, 2, 1]
        for name, array in arrays.items():
            np.testing.assert_array_equal(np.concatenate([b[name] for b in batches]), array[chosen])


def test_rows_are_drawn_over_the_whole_file() -> None:
    rows = choose_rows(1000, 256, 0)
    assert (np.diff(rows) > 0).all()
    assert rows[0] < 4
    assert rows[-1] >= 996
    labels = rows // 100  # sorted by class
    assert np.ptp(np.bincount(labels, minlength=10)) <= 1
    assert rows.tolist() == choose_rows(1000, 256, 0).tolist() != choose_rows(1000, 256, 1).tolist()
    assert choose_rows(9, 256, 3).tolist() == list(range(9))


def write(path: Path, rows: int) -> Path:
    rng = np.random.default_rng(0)
    np.savez(path, latents=rng.standard_normal((rows, 6), dtype=np.float32), class_labels=np.arange(rows) % 10)
    return path


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak(path: Path) -> int:
        tracemalloc.start()
        source = NpzRows(path)
        for _ in source.batches(choose_rows(source.columns["latents"].shape[0], 64, 0), 16, whole=True):
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few, many = write(tmp_path / "few.npz", 200_000), write(tmp_path / "many.npz", 1_000_000)
    peak(few)  # imports and caches
    assert peak(many) < 1.1 * peak(few)
    assert peak(many) < 2**20


CHILD = """
import resource, sys
from pathlib import Path
from aigc_calibration.data import ArrayData, NpzRows
from aigc_calibration.subject import Subject
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import DimSpec, TensorSpec
inputs = (TensorSpec(name="latents", dtype="float32", shape=("batch", 6)),
          TensorSpec(name="class_labels", dtype="int64", shape=("batch",), low=0, high=10))
interface = Interface(inputs=inputs, outputs=inputs[:1], dims=(DimSpec(name="batch"),))
print(ArrayData(subject=Subject(interface=interface), source=NpzRows(Path(sys.argv[1])), most=64).samples)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_peak_memory_of_a_process_is_that_of_a_small_file(tmp_path: Path) -> None:
    def peak(path: Path) -> int:
        done = subprocess.run([sys.executable, "-c", CHILD, str(path)], capture_output=True, text=True, check=True)
        samples, found = map(int, done.stdout.split())
        assert samples == 64
        return found

    assert peak(write(tmp_path / "many.npz", 1_000_000)) < 1.1 * peak(write(tmp_path / "few.npz", 64))


def test_what_is_not_an_npz_of_plain_arrays(tmp_path: Path) -> None:
    good = np.arange(12.0).reshape(4, 3)
    np.savez(tmp_path / "object.npz", a=np.array([{}], dtype=object))
    np.savez(tmp_path / "fields.npz", a=np.zeros(3, dtype=[("x", "f4")]))
    np.savez(tmp_path / "fortran.npz", a=np.asfortranarray(good))
    (tmp_path / "garbage.npz").write_bytes(b"not a zip")
    buffer = io.BytesIO()
    np.save(buffer, good)
    members = {
        "text": ("a.npy", b"hello"),
        "short": ("a.npy", buffer.getvalue()[:-8]),
        "long": ("a.npy", buffer.getvalue() + b"12345678"),
        "header": ("a.npy", buffer.getvalue()[:30]),
        "version": ("a.npy", buffer.getvalue()[:6] + b"\x09" + buffer.getvalue()[7:]),
        "empty": ("a.npy", b""),
    }
    for name, (member, data) in members.items():
        with zipfile.ZipFile(tmp_path / f"{name}.npz", "w") as archive:
            archive.writestr(member, data)
    with zipfile.ZipFile(tmp_path / "twice.npz", "w") as archive:
        archive.writestr("a.npy", buffer.getvalue())
        archive.writestr("a", buffer.getvalue())
    names = ["object", "fields", "fortran", "garbage", *members, "twice"]
    for name in names:
        with pytest.raises(CalibrationError, match=r"is not an \.npz of plain arrays") as caught:
            NpzRows(tmp_path / f"{name}.npz")
        assert "numpy.savez" in caught.value.hint, name
    with pytest.raises(CalibrationError, match="no such file"):
        NpzRows(tmp_path / "missing.npz")
    with pytest.raises(CalibrationError, match="is a folder"):
        NpzRows(tmp_path)


def test_damage_behind_the_last_row_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "x.npz", 1000)
    raw = bytearray(path.read_bytes())
    raw[20_000] ^= 0x40  # among the latents, 24 bytes a row
    path.write_bytes(raw)
    source = NpzRows(path)
    with pytest.raises(CalibrationError, match="Bad CRC-32"):
        list(source.batches(np.array([0, 1]), 2, whole=True))
