"""Text of the user: every byte as it is, in one order, or refused by the file's name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aigc_models.data.text_data import load_text
from aigc_models.data.text_files import read_text_files
from aigc_runtime.errors import InputError

EXACT = [
    b"one\r\ntwo\rthree\n",
    b"\xef\xbb\xbfwith a mark",
    "Grüße, Zoë \u2028 \U0001f600".encode(),
    b"a tab\t a form feed\x0c an escape \x1b[0m",
]


@pytest.mark.parametrize("data", EXACT)
def test_every_byte_is_kept(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(data)
    assert read_text_files(tmp_path).texts == read_text_files(tmp_path / "x.txt").texts == (data,)


def test_training_sees_the_bytes_of_the_file_and_nothing_else(tmp_path: Path) -> None:
    data = b"".join(b"line %d\r\n" % i for i in range(2000))
    (tmp_path / "x.txt").write_bytes(data)
    text = load_text(tmp_path / "x.txt")
    assert text.train.tobytes() + text.held_out.tobytes() == data
    (tmp_path / "x.latin1").write_bytes(data + "größer".encode("latin-1"))
    with pytest.raises(InputError, match=r"x\.latin1' is not UTF-8"):
        read_text_files(tmp_path / "x.latin1")
    raw = load_text(tmp_path / "x.latin1")
    assert raw.raw
    assert not text.raw
    assert raw.train.tobytes() + raw.held_out.tobytes() == data + b"gr\xf6\xdfer"


def test_the_order_is_that_of_the_names_bytes(tmp_path: Path) -> None:
    names = ["b.txt", "B.txt", "a/z.txt", "a/Z.md", "a.txt", "é.txt", "z.txt", "10.txt", "9.txt"]
    (tmp_path / "a").mkdir()
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    found = [text.decode() for text in read_text_files(tmp_path).texts]
    assert found == ["10.txt", "9.txt", "B.txt", "a/Z.md", "a/z.txt", "a.txt", "b.txt", "z.txt", "é.txt"]


def test_what_is_passed_over_is_told(tmp_path: Path) -> None:
    for name in ("a.TXT", "empty.txt", "photo.png", "poem", ".hidden.txt", ".git/x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"" if name == "empty.txt" else name.encode())
    found = read_text_files(tmp_path)
    assert found.texts == (b"a.TXT",)
    assert found.left_out == (str(tmp_path / "photo.png"), str(tmp_path / "poem"))


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_text_files(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("Grüße".encode("latin-1"), "is not UTF-8: byte 0xfc at 2"),
        ("Grüße".encode("utf-16"), "is in UTF-16, expected UTF-8"),
        ("text".encode("utf-16-le"), "is in UTF-16, expected UTF-8"),
        ("text".encode("utf-32-be"), "is in UTF-32, expected UTF-8"),
        (b"PK\x03\x04" + bytes(range(32)), "is binary: "),
        (b"half a character \xc3", "is not UTF-8: byte 0xc3 at 17"),
    ],
)
def test_a_file_that_is_no_text_is_named(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "z.txt").write_bytes(data)
    assert f"z.txt' {message}" in refusal(tmp_path)


def test_things_that_are_no_files_are_named_and_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("good")
    bad = tmp_path / "x.txt"
    os.mkfifo(bad)
    assert "x.txt' is a named pipe, expected a plain file" in refusal(tmp_path)
    bad.unlink()
    bad.symlink_to(tmp_path / "nowhere")
    assert "no such file: " in refusal(tmp_path)
    assert "(a link to nothing)" in refusal(tmp_path)
    bad.unlink()
    bad.symlink_to(bad)
    assert f"cannot read '{bad}'" in refusal(tmp_path)
    bad.unlink()
    bad.symlink_to("/dev/zero")
    assert "x.txt' is a device, expected a plain file" in refusal(tmp_path)
    assert refusal(Path("/dev/zero")).startswith("'/dev/zero' is a device")
    assert refusal(tmp_path / "none").startswith("no such file: ")


def test_links_in_a_circle_are_named_and_a_file_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x.txt").write_text("once")
    (tmp_path / "again").symlink_to(tmp_path / "sub")
    (tmp_path / "hard.txt").hardlink_to(tmp_path / "sub" / "x.txt")
    assert read_text_files(tmp_path).texts == (b"once",)
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    assert "loop' is a link to a folder above it" in refusal(tmp_path)


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "locked").mkdir()
    real = Path.iterdir

    def refuse(self: Path) -> object:
        if self.name == "locked":
            raise PermissionError(13, "Permission denied")
        return real(self)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert "locked': Permission denied" in refusal(tmp_path)


def test_too_much_text_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "x.txt").open("wb") as file:
        file.truncate(2**31 + 1)
    assert "is larger than 2,147,483,648 bytes" in refusal(tmp_path)


def test_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.txt"
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(b"\xff")
    assert "'" + str(tmp_path) + "/\\udcff.txt' is not UTF-8" in refusal(tmp_path)
