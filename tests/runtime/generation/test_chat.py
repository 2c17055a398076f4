"""Chats against transformers' own rendering of the same templates, and what is no chat."""

from __future__ import annotations

import datetime
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest

from aigc_runtime.errors import (
    BundleError,
    ChatTemplateError,
    ConfigError,
    InputError,
    TextSupportMissingError,
    UnknownNameError,
)
from aigc_runtime.generation import chat as module
from aigc_runtime.generation.chat import ChatInfo, ChatTemplate

from .tokenizers.makers import byte_level

transformers: Any = pytest.importorskip("transformers")

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

CHATML = """{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}
{{ '<|im_end|>' }}
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

STRICT = """{{ bos_token }}{% for m in messages %}
  {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}
    {{- raise_exception('roles must alternate user and assistant') }}
  {%- endif %}
  {%- if m.role == 'user' %}{{ '[INST] ' ~ m.content | trim ~ ' [/INST]' }}
  {%- elif m.role == 'assistant' -%}
    {% generation %}{{ ' ' + m.content + eos_token }}{% endgeneration %}
  {%- endif %}
{% endfor %}"""

TOOLS = """{%- macro call(one) -%}
{"name": {{ one.function.name | tojson }}, "arguments": {{ one.function.arguments | tojson }}}
{%- endmacro -%}
{%- set ns = namespace(count=0, system='') -%}
{%- for m in messages if m.role == 'system' %}{% set ns.system = ns.system ~ m.content %}{% endfor -%}
{{ strftime_now('%d %b %Y') }}
{% if tools %}
{% for tool in tools %}{{ tool | tojson(indent=2) }}{{ '\n' }}{% endfor %}
{% endif %}
{% for d in documents or [] %}{{ d.title }}: {{ d['text'] }}{% endfor %}
{{ ns.system or 'none' }}
{%- for m in messages %}
  {%- if m.role == 'system' %}{% continue %}{% endif %}
  {%- set ns.count = ns.count + 1 %}
{{ loop.index }}/{{ loop.length }} {{ m.role | upper }}{% if loop.last %}!{% endif %}
  {%- if m.reasoning_content is defined %}<think>{{ m.reasoning_content }}</think>{% endif %}
  {%- if m.content is string %}{{ m.content }}
  {%- elif m.content %}{% for part in m.content %}{{ part.text | default('[' ~ part.type ~ ']', true) }}{% endfor %}
  {%- endif %}
  {%- for one in m.tool_calls or [] %}{{ call(one) }}{% endfor %}
{% endfor %}
{{ dict(a=1, b=[ns.count] * 3)['b'] }} {{ (messages | map(attribute='role') | list)[::-1] | join(', ') }}
{{ 'thinking' if enable_thinking is defined and enable_thinking else 'plain' }} {{ "%s|%5.2f" | format('x', 2.5) }}
{{ '{:>4}'.format(ns.count) }} {{ messages[0].content.split(' ')[0].replace('a', 'bb').strip() }} {{ 7 // 2 }}
{{ 2 ** 5 }}
{% if add_generation_prompt %}GO{% endif %}"""

USER: list[dict[str, Any]] = [{"role": "user", "content": "a question é 日本 👩‍🚀 <b>&amp;</b>"}]
TURNS = [*USER, {"role": "assistant", "content": "an answer", "reasoning_content": "because"}, *USER]
SYSTEM = [{"role": "system", "content": "Be kind.\n"}, *TURNS]
CALLS = [
    *SYSTEM,
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich", "n": 1.5}}}
        ],
    },
    {"role": "tool", "name": "weather", "content": '{"degrees": 20}'},
]
PARTS = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is this?"}]}]
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "Der Zürcher's <weather>", "parameters": {"type": "object"}},
}
CHATS = {"user": USER, "turns": TURNS, "system": SYSTEM, "calls": CALLS, "parts": PARTS}
NOW = datetime.datetime(2024, 2, 29, 12, 30)


class _Fixed(datetime.datetime):
    @classmethod
    def now(cls, tz: object = None) -> Any:
        return NOW


@pytest.fixture
def theirs(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(byte_level())
    from transformers.utils import chat_template_utils

    monkeypatch.setattr(chat_template_utils, "datetime", _Fixed)

    def render(template: Any, chat: list[dict[str, Any]], **arguments: Any) -> str:
        tokenizer: Any = transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(path), chat_template=template, **TOKENS
        )
        text: str = tokenizer.apply_chat_template(chat, tokenize=False, **arguments)
        return text

    return render


@pytest.mark.parametrize("chat", list(CHATS))
@pytest.mark.parametrize("template", [CHATML, STRICT, TOOLS])
@pytest.mark.parametrize("prompt", [True, False])
def test_a_chat_is_rendered_as_transformers_does(
    theirs: Callable[..., str], template: str, chat: str, prompt: bool
) -> None:
    ours = ChatTemplate({"default": template}, TOKENS)
    for more in ({}, {"tools": [WEATHER]}, {"documents": [{"title": "T", "text": "D"}], "enable_thinking": True}):
        arguments: dict[str, Any] = {"add_generation_prompt": prompt, **more}
        try:
            expected = theirs(template, CHATS[chat], **arguments)
        except Exception as err:  # noqa: BLE001 - whatever the template provokes
            with pytest.raises(ChatTemplateError, match=re.escape(str(err).splitlines()[0][:40])):
                ours.render(CHATS[chat], now=NOW, **arguments)
        else:
            assert ours.render(CHATS[chat], now=NOW, **arguments) == expected


def test_what_a_template_raises_is_told(theirs: Callable[..., str]) -> None:
    ours = ChatTemplate({"default": STRICT}, TOKENS)
    with pytest.raises(ChatTemplateError, match="refuses this chat: roles must alternate user and assistant\nchange"):
        ours.render(SYSTEM)


@pytest.mark.parametrize(
    "template", [CHATML, STRICT, TOOLS, "{% for m in messages %}{{ m.content | trim }}{% endfor %}"]
)
def test_a_last_message_is_continued_as_transformers_does(theirs: Callable[..., str], template: str) -> None:
    for content in ("The answer is", "spaces behind  ", [{"type": "text", "text": "of parts"}]):
        chat = [*USER, {"role": "assistant", "content": content}]
        arguments = {"add_generation_prompt": False, "continue_final_message": True}
        ours = ChatTemplate({"default": template}, TOKENS)
        try:
            expected = theirs(template, chat, **arguments)
        except Exception:  # noqa: BLE001 - parts are not for every template
            with pytest.raises(InputError):
                ours.render(chat, now=NOW, **arguments)  # type: ignore[arg-type]
        else:
            assert ours.render(chat, now=NOW, **arguments) == expected  # type: ignore[arg-type]


def test_templates_by_name(theirs: Callable[..., str]) -> None:
    named = {"default": "plain", "tool_use": "tools {{ tools | length }}", "rag": "rag"}
    ours = ChatTemplate(named, TOKENS)
    stored = [{"name": name, "template": source} for name, source in named.items()]
    assert ours.render(USER) == theirs(stored, USER) == "plain"
    assert ours.render(USER, tools=[WEATHER]) == theirs(stored, USER, tools=[WEATHER]) == "tools 1"
    assert ours.render(USER, template="rag") == theirs(stored, USER, chat_template="rag") == "rag"
    with pytest.raises(UnknownNameError, match=r"unknown chat template 'rug'\nvalid: default, rag, tool_use\. Did"):
        ours.render(USER, template="rug")


def test_the_time_is_that_of_the_machine_unless_it_is_given() -> None:
    ours = ChatTemplate({"default": "{{ strftime_now('%Y-%m-%d') }}"}, {})
    assert ours.render(USER, now=NOW) == "2024-02-29"
    assert ours.render(USER) == datetime.datetime.now().strftime("%Y-%m-%d")


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "a chat has no messages\ngive at least one"),
        ("hello", "messages is 'hello'\nmust be a list of objects"),
        (["hello"], r"messages\[0\] is 'hello'\nmust be an object"),
        ([{"role": "user", "content": object()}], r"messages\[0\]\.content is a object\nmust be made of text"),
        ([{"role": "user", "content": "a\ud800"}], r"messages\[0\]\.content holds half of a surrogate pair"),
    ],
)
def test_what_is_no_chat(messages: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ChatTemplate({"default": CHATML}, TOKENS).render(messages)


def test_a_chat_that_holds_itself() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(InputError, match="is nested deeper than 64"):
        ChatTemplate({"default": CHATML}, TOKENS).render([{"role": "user", "content": loop}])


def test_the_callers_messages_stay_as_they_are() -> None:
    chat = [{"role": "user", "content": [{"text": "a"}], "x": None}]
    ours = ChatTemplate({"default": "{{ messages[0].content[0].text }}"}, {})
    assert ours.render(chat, add_generation_prompt=False, continue_final_message=True) == "a"
    assert chat == [{"role": "user", "content": [{"text": "a"}], "x": None}]


def test_arguments_that_contradict_each_other() -> None:
    ours = ChatTemplate({"default": CHATML}, TOKENS)
    with pytest.raises(InputError, match="the last message cannot be continued, and a new one begun"):
        ours.render(USER, continue_final_message=True)
    with pytest.raises(InputError, match="does not write the last message as it is"):
        ChatTemplate({"default": "{{ messages[0].content | upper }}"}, {}).render(
            USER, add_generation_prompt=False, continue_final_message=True
        )
    with pytest.raises(InputError, match="the last message has no text to continue"):
        ours.render([{"role": "user", "content": []}], add_generation_prompt=False, continue_final_message=True)


def test_templates_of_a_bundle() -> None:
    info = ChatInfo(templates={"default": "chat.jinja"}, special_tokens={"bos_token": "<s>"})
    assert ChatTemplate.of(info, {"chat.jinja": "{{ bos_token }}é".encode()}).render(USER) == "<s>é"
    with pytest.raises(BundleError, match=r"the program has no file 'chat\.jinja', which its chat template is in"):
        ChatTemplate.of(info, {})
    with pytest.raises(BundleError, match=r"chat\.jinja is not UTF-8"):
        ChatTemplate.of(info, {"chat.jinja": b"\xff"})
    with pytest.raises(ConfigError, match=r"chat\.templates has no 'default'\nit has: \(none\)"):
        ChatInfo(templates={}, special_tokens={})
    with pytest.raises(ConfigError, match=r"chat\.special_tokens names 'messages'"):
        ChatInfo(templates={"default": "a"}, special_tokens={"messages": "x"})


def test_an_enormous_template_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TEMPLATE_BYTES", 3)
    with pytest.raises(BundleError, match=r"chat\.jinja has 4 bytes\nat most 3 are allowed"):
        ChatTemplate.of(ChatInfo(templates={"default": "chat.jinja"}, special_tokens={}), {"chat.jinja": b"abcd"})


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(
        TextSupportMissingError, match=r"the package jinja2, which is not installed\npip install 'aigc-run"
    ):
        ChatTemplate({"default": "a"}, {})


def test_a_package_whose_sandbox_is_not_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    import jinja2

    monkeypatch.setattr(jinja2, "__version__", "3.1.5")
    with pytest.raises(TextSupportMissingError, match=r"jinja2 3\.1\.5 is installed, whose sandbox has known ways out"):
        ChatTemplate({"default": "a"}, {})
