from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aigc_models.training.text_data import load_text, standard_library_text
from aigc_runtime.errors import InputError


def write_texts(folder: Path, count: int) -> None:
    for i in range(count):
        (folder / f"{i:03}.txt").write_text(f"file {i:03} " * 100)


def test_the_standard_librarys_text_is_split_by_whole_files() -> None:
    text = standard_library_text()
    assert text.train.dtype == text.held_out.dtype == np.uint8
    assert len(text.train) > 3_000_000
    assert 0.03 < len(text.held_out) / (len(text.train) + len(text.held_out)) < 0.15
    import json.decoder  # a file that is certainly there: on one side as a whole, on the other not at all

    source = Path(json.decoder.__file__).read_bytes()
    assert sum(source in side.tobytes() for side in (text.train, text.held_out)) == 1


def test_the_text_is_the_same_every_time_and_holds_no_tests() -> None:
    one, again = standard_library_text(), standard_library_text()
    assert np.array_equal(one.train, again.train)
    assert np.array_equal(one.held_out, again.held_out)
    assert b"class TestCase(unittest.TestCase)" not in one.train.tobytes()


def test_adding_a_file_moves_no_other_to_the_other_side(tmp_path: Path) -> None:
    write_texts(tmp_path, 120)
    before = load_text(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "new.md").write_text("new " * 200)
    after = load_text(tmp_path)
    for i in range(120):
        name = f"file {i:03} ".encode()
        assert (name in before.held_out.tobytes()) == (name in after.held_out.tobytes())
        assert (name in after.train.tobytes()) != (name in after.held_out.tobytes())


def test_one_file_is_cut_near_its_end(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 256, 10_000).astype(np.uint8)
    (tmp_path / "a.bin").write_bytes(data.tobytes())
    text = load_text(tmp_path / "a.bin")
    np.testing.assert_array_equal(np.concatenate([text.train, text.held_out]), data)
    assert len(text.held_out) == 800


@pytest.mark.parametrize("count", [1, 2, 3])
def test_of_a_few_files_the_end_of_each_is_held_out(tmp_path: Path, count: int) -> None:
    for i in range(count):
        (tmp_path / f"{i}.txt").write_bytes(bytes([65 + i]) * 10_000)
    text = load_text(tmp_path)
    assert len(text.train) + len(text.held_out) == 10_000 * count
    assert set(text.train) == set(text.held_out) == set(range(65, 65 + count))
    assert 0.07 < len(text.held_out) / (10_000 * count) < 0.09


def test_text_that_is_none_or_too_little(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no text files in .*\nlooked for \.txt"):
        load_text(tmp_path)
    (tmp_path / "a.txt").write_text("short")
    for given in (tmp_path, tmp_path / "a.txt"):
        with pytest.raises(InputError, match="need at least 4,096 and 512"):
            load_text(given)


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_texts(tmp_path, 3)

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    for given in (tmp_path, tmp_path / "001.txt"):
        with pytest.raises(InputError, match=r"cannot read '.*\.txt': Permission denied"):
            load_text(given)
