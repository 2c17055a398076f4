"""Chats of a file are rendered by the model's own template, whole and the same on every day."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aigc_calibration.errors import CalibrationError
from aigc_export.workloads.samples.chats import chat_render
from aigc_export.workloads.samples.text import calibration_documents
from aigc_models.evaluation.evaluation import text_evaluation
from aigc_runtime.errors import InputError
from aigc_runtime.generation.chat import ChatInfo
from aigc_runtime.generation.tokenizers import TokenizerInfo

from ..families import text_settings

TEMPLATE = (
    "{{ strftime_now('%Y') }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    "{{ bos_token }}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)
ASSETS = {"chat.jinja": TEMPLATE.encode()}
SETTINGS = replace(
    text_settings(), chat=ChatInfo(templates={"default": "chat.jinja"}, special_tokens={"bos_token": "<s>"})
)


def chats(path: Path, *contents: str, role: str = "user") -> Path:
    lines = [{"messages": [{"role": role, "content": content}]} for content in contents]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_chats_are_rendered_whole_and_every_day_alike(tmp_path: Path) -> None:
    render = chat_render(SETTINGS, ASSETS)
    path = chats(tmp_path / "a.jsonl", "hi " * 100, "there " * 100)
    found = text_evaluation(SETTINGS, eval_data=path, render=render)
    assert [d.text.decode() for d in found.documents] == [f"2026<s>user: {w * 100}\n" for w in ("hi ", "there ")]
    assert all(d.is_rendered for d in found.documents)
    assert found.data == "'a.jsonl'"


def test_a_chat_that_is_evaluated_on_is_not_calibrated_on(tmp_path: Path) -> None:
    render = chat_render(SETTINGS, ASSETS)
    evaluated = text_evaluation(SETTINGS, eval_data=chats(tmp_path / "a.jsonl", "hi " * 200, "no"), render=render)

    def read(path: Path) -> list[str]:
        found = calibration_documents(path, SETTINGS, own_text=(), held_out=evaluated.pieces, render=render)
        return [document.text.decode() for document in found]

    kept = read(chats(tmp_path / "b.jsonl", "yes", "hi " * 200, "no", "not"))
    assert kept == ["2026<s>user: yes\n", "2026<s>user: not\n"]
    with pytest.raises(CalibrationError, match="is text that quality is measured on"):
        read(tmp_path / "a.jsonl")


def test_what_a_template_refuses_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"line 1 of '.*a\.jsonl': .*no system here"):
        text_evaluation(
            SETTINGS, eval_data=chats(tmp_path / "a.jsonl", "hi", role="system"), render=chat_render(SETTINGS, ASSETS)
        )


def test_a_model_without_a_template_has_none() -> None:
    assert chat_render(text_settings(), ASSETS) is None
    assert chat_render(SETTINGS, None) is None


@pytest.mark.parametrize(
    ("kind", "line", "message"),
    [
        ("none", {"text": "a" * 600}, "holds text, and this model has no tokenizer"),
        ("none", {"input_ids": [300] * 600}, "holds the token id 300"),
        ("bytes", {"input_ids": [3] * 600}, "holds input_ids, and this model reads text"),
        ("bytes", {"text": "short"}, "holds 5 bytes to evaluate on"),
    ],
)
def test_data_of_the_wrong_form(kind: str, line: dict[str, Any], message: str, tmp_path: Path) -> None:
    settings = replace(text_settings(), tokenizer=TokenizerInfo(kind=kind))
    (tmp_path / "x.jsonl").write_text(json.dumps(line))
    with pytest.raises(InputError, match=message):
        text_evaluation(settings, eval_data=tmp_path / "x.jsonl")


def test_tokens_are_data_of_a_model_without_text(tmp_path: Path) -> None:
    settings = replace(text_settings(), tokenizer=TokenizerInfo(kind="none"))
    (tmp_path / "x.jsonl").write_text(json.dumps({"input_ids": list(range(200)) * 3}))
    found = text_evaluation(settings, eval_data=tmp_path / "x.jsonl")
    assert (found.documents[0].ids[:3], found.has_task_metric) == ((0, 1, 2), False)
    drawn = text_evaluation(settings)
    assert (drawn.data, drawn.has_task_metric) == ("drawn token ids", False)
    assert drawn.documents != calibration_documents(None, settings, own_text=(), held_out=(), render=None)
