from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aigc_models.data.text_data import load_text, standard_library_text
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
    letters = [bytes([65 + i]) for i in range(count)]
    assert text.train.tobytes() == b"\n".join(letter * 9_200 for letter in letters)
    assert text.held_out.tobytes() == b"\n".join(letter * 800 for letter in letters)
    assert 0.07 < len(text.held_out) / (10_000 * count) < 0.09


def test_text_that_is_none_or_too_little(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no text files in .*\nlooked for \.txt"):
        load_text(tmp_path)
    (tmp_path / "a.txt").write_text("short")
    for given in (tmp_path, tmp_path / "a.txt"):
        with pytest.raises(InputError, match="need at least 4,096 and 512"):
            load_text(given)


def test_files_that_are_equal_are_on_one_side(tmp_path: Path) -> None:
    write_texts(tmp_path, 120)
    (tmp_path / "copies").mkdir()
    for i in range(0, 120, 3):
        (tmp_path / "copies" / f"again-{i}.txt").write_bytes((tmp_path / f"{i:03}.txt").read_bytes())
    text = load_text(tmp_path)
    assert len(text.train_pieces) + len(text.held_out_pieces) == 160
    assert not set(text.train_pieces) & set(text.held_out_pieces)


@pytest.mark.parametrize("count", [3, 120])
def test_what_training_sees_in_another_file_is_not_held_out(count: int, tmp_path: Path) -> None:
    write_texts(tmp_path, count)
    texts = [(tmp_path / f"{i:03}.txt").read_bytes() for i in range(count)]
    own = b"".join(b"and line %d of its own, " % i for i in range(2000))
    (tmp_path / "all.txt").write_bytes(b"".join(texts) + own)
    text = load_text(tmp_path)
    assert text.held_out.tobytes() in own
    assert text.held_out.tobytes() not in text.train.tobytes()
    assert text.seen == sum(len(t) - int(len(t) * 0.92) for t in texts)


def test_text_that_is_all_seen_elsewhere_is_refused(tmp_path: Path) -> None:
    lines = b"".join(b"line %d of a text\n" % i for i in range(2000))
    (tmp_path / "one.txt").write_bytes(lines)
    (tmp_path / "two.txt").write_bytes(lines + lines[: len(lines) // 2])
    with pytest.raises(InputError, match="more stand in other files, too, and so cannot be held out"):
        load_text(tmp_path)
