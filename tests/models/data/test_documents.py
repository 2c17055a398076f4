"""Lines of jsonl are texts, chats or tokens; one that is none of them is refused with its number."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from aigc_models.data import documents
from aigc_models.data.documents import Document, read_documents
from aigc_runtime.errors import CheckpointError, InputError

CHAT = [{"role": "user", "content": "Grüße \u2028 \U0001f600"}, {"role": "assistant", "content": "a"}]


def render(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None) -> str:
    if messages[0]["role"] == "system":
        raise CheckpointError("this template takes no system message", hint="leave it out")
    said = "".join(f"<|{m['role']}|>{m.get('content')}" for m in messages)
    return f"{said}<|tools {len(tools)}|>" if tools else said


def written(path: Path, *lines: object) -> Path:
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    return path


def test_every_form_of_a_line(tmp_path: Path) -> None:
    lines = [{"text": "one\ntwo"}, b"", {"messages": CHAT, "id": 7}, b"  ", {"input_ids": [3, 0]}, {"text": ""}]
    call: list[dict[str, Any]] = [{"role": "assistant", "content": None, "tool_calls": []}]
    path = written(tmp_path / "a.jsonl", *lines, {"messages": call, "tools": [{"name": "f"}]})
    assert read_documents(path, render=render) == (
        Document(text=b"one\ntwo"),
        Document(text="<|user|>Grüße \u2028 \U0001f600<|assistant|>a".encode(), is_rendered=True),
        Document(ids=(3, 0)),
        Document(text=b"<|assistant|>None<|tools 1|>", is_rendered=True),
    )
    assert read_documents(path, render=render)[2].content == b"3 0"


def test_a_folder_of_texts_and_lines(tmp_path: Path) -> None:
    written(tmp_path / "b.JSONL", {"text": "of a line"})
    (tmp_path / "a.txt").write_bytes(b"of a file\r\n")
    (tmp_path / "c.bin").write_bytes(b"left out")
    assert [d.text for d in read_documents(tmp_path)] == [b"of a file\r\n", b"of a line"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "a"', r"line 3 of '.*x\.jsonl' is not valid: "),
        (b'{"text": "a", "text": "b"}', "line 3 of .* is not valid: "),
        (b'{"text": "\\ud800"}', "line 3 of .* half of a surrogate pair"),
        (["a"], "line 3 of .* is a list"),
        ({"prompt": "a", "completion": "b"}, "line 3 of .* has none of messages, text, input_ids: it has 'prompt'"),
        ({"text": "a", "messages": CHAT}, "line 3 of .* has both messages and text"),
        ({"text": 7}, "line 3 of .* has a text that is a int"),
        ({"messages": []}, "line 3 of .* has no messages"),
        ({"messages": "hello"}, "line 3 of .* has no messages"),
        ({"messages": [{"content": "a"}]}, "line 3 of .* has a message 0 without a role"),
        ({"messages": [{"from": "human", "value": "a"}]}, "line 3 of .* has a message 0 without a role"),
        ({"messages": [{"role": "user", "content": ["a"]}]}, "line 3 of .* has a message 0 whose content is no text"),
        ({"messages": [{"role": "user"}]}, "line 3 of .* has a message 0 whose content is no text"),
        ({"messages": CHAT, "tools": "none"}, "line 3 of .* has tools that are no list of objects"),
        ({"messages": [{"role": "system", "content": ""}]}, "line 3 of .*: this template takes no system message"),
        ({"input_ids": [1, -1]}, "line 3 of .* has input_ids that are no list of token ids"),
        ({"input_ids": [1, True]}, "line 3 of .* has input_ids that are no list of token ids"),
        ({"input_ids": 5}, "line 3 of .* has input_ids that are no list of token ids"),
        (b'{"text": "\xff"}', "is not UTF-8"),
    ],
)
def test_a_broken_line_is_refused_with_its_number(line: object, message: str, tmp_path: Path) -> None:
    path = written(tmp_path / "x.jsonl", {"text": "a"}, b"", line, {"text": "b"})
    with pytest.raises(InputError, match=message) as caught:
        read_documents(path, render=render)
    assert caught.value.hint


def test_chats_need_a_template(tmp_path: Path) -> None:
    path = written(tmp_path / "x.jsonl", {"messages": CHAT})
    with pytest.raises(CheckpointError, match=r"line 1 of .* is a chat, and the model has no chat template"):
        read_documents(path, error=CheckpointError)


def test_of_many_chats_some_from_everywhere_are_rendered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_CHATS", 10)
    chats = [{"messages": [{"role": "user", "content": str(i)}]} for i in range(25)]
    path = written(tmp_path / "x.jsonl", *chats)
    assert [int(d.text.removeprefix(b"<|user|>")) for d in read_documents(path, render=render)] == [*range(0, 25, 3)]
    # All are read, though: a broken one is never passed over.
    written(path, *chats[:-1], {"messages": []})
    with pytest.raises(InputError, match="line 25 of"):
        read_documents(path, render=render)


def test_lines_of_text_do_not_make_chats_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_CHATS", 10)
    chats = [{"messages": [{"role": "user", "content": f'{i} says "messages"'}]} for i in range(10)]
    path = written(tmp_path / "x.jsonl", *([{"text": "a"}, b""] * 20), *chats)
    assert sum(document.is_rendered for document in read_documents(path, render=render)) == len(chats)
