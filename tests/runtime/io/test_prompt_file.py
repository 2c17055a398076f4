"""A model over bytes is prompted with the bytes of the file."""

from __future__ import annotations

import io
import json
import os
import threading
from pathlib import Path

import pytest

from aigc_runtime.cli.main import run
from aigc_runtime.errors import InputError
from aigc_runtime.io.prompt_file import MAX_PROMPT_BYTES, read_prompt

TEXTS = [
    b"one\r\ntwo\rthree\n",
    b"\xef\xbb\xbfmarked",
    b"\x00\x1a\x0b\x0c",
    "é\u2028\u0085\U0001f600".encode(),
    b"a\x00b\x00",
    b"",
]


@pytest.mark.parametrize("data", TEXTS)
def test_every_byte_of_the_file_is_in_the_prompt(data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p").write_bytes(data)
    assert read_prompt(str(tmp_path / "p")).encode() == data
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), encoding="cp1252"))
    assert read_prompt("-").encode() == data


def test_the_model_sees_them(toy_bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p").write_bytes(b"a\r\nb")
    bundle = str(toy_bundles / "toy_lm_growing")
    assert run(["generate", bundle, "--prompt-file", str(tmp_path / "p"), "--max-new-tokens", "3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["prompts"], told["results"][0]["prompt_tokens"]) == ([{"text": "a\r\nb"}], 4)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"ab\xe9cd", "is not UTF-8: byte 0xe9 at 2"),
        ("hé".encode("utf-16"), "is not UTF-8: it is in UTF-16"),
        (b"\xed\xa0\x80", "is not UTF-8: byte 0xed at 0"),
    ],
)
def test_what_is_no_utf8_is_refused_by_its_name(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(data)
    with pytest.raises(InputError, match=f"the prompt in '{tmp_path}/p' {message}"):
        read_prompt(str(tmp_path / "p"))


def test_a_file_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"longer than {MAX_PROMPT_BYTES:,} bytes"):
        read_prompt("/dev/zero")
    with pytest.raises(InputError, match=r"cannot read the prompt from .*: Is a directory"):
        read_prompt(str(tmp_path))


def test_a_pipe_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(b"a\r\nb",))
    writer.start()
    assert read_prompt(str(tmp_path / "pipe")) == "a\r\nb"
    writer.join()


def test_it_is_read_before_the_engine_is_loaded(
    toy_bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def loaded(*_arguments: object, **_named: object) -> None:
        raise AssertionError("the engine was loaded")

    monkeypatch.setattr("aigc_runtime.cli.generate.open_pipeline", loaded)
    bundle = str(toy_bundles / "toy_lm_growing")
    assert run(["generate", bundle, "--prompt-file", "/dev/zero"]) == 2
    assert run(["generate", bundle, "--prompt-file", str(tmp_path / "none")]) == 2
    assert run(["generate", bundle, "--prompt", "a", "--top-p", "7"]) == 2
    assert "longer than" in capsys.readouterr().err
