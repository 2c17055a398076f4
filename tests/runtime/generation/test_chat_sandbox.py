"""Templates that attack: they end soon, in an error of ours, and without the memory they ask for."""

from __future__ import annotations

import contextlib
import time
import tracemalloc
from collections.abc import Iterator

import pytest

from aigc_runtime.errors import BundleError, ChatTemplateError
from aigc_runtime.generation import chat_budget
from aigc_runtime.generation.chat import ChatTemplate

pytest.importorskip("jinja2")

USER = [{"role": "user", "content": "x"}]
GROWING = "{% set ns = namespace(s=[1]) %}{% for i in range(100) %}{% set ns.s = STEP %}{% endfor %}"

ENDLESS = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "filtered loops": "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
    "recursive loop": "{% for x in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "macro tree": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "set block": "{% set x %}"
    "{% for i in range(99999) %}{% for j in range(99999) %}text{% endfor %}{% endfor %}{% endset %}",
    "filters": "{% for i in range(99999) %}{{ range(99999) | list | length }}{% endfor %}",
}

ENORMOUS = {
    "product": "{{ 'a' * 10**9 }}",
    "product of a list": "{{ [1] * 10**9 }}",
    "text by text": GROWING.replace("STEP", "ns.s ~ ns.s") + "{{ ns.s }}",
    "list by list": GROWING.replace("STEP", "ns.s + ns.s") + "{{ ns.s }}",
    "lists of lists": GROWING.replace("STEP", "[ns.s, ns.s]") + "{{ ns.s }}",
    "objects of objects": GROWING.replace("STEP", "{'a': ns.s, 'b': ns.s}") + "{{ ns.s | tojson }}",
    "namespaces": GROWING.replace("STEP", "namespace(a=ns.s, b=ns.s)") + "{{ ns.s }}",
    "compared": GROWING.replace("STEP", "[ns.s, ns.s]") + "{{ ns.s == ns.s }}",
    "power": "{{ 10 ** 100000 }}",
    "squares": "{% set ns = namespace(n=3) %}"
    "{% for i in range(60) %}{% set ns.n = ns.n * ns.n %}{% endfor %}{{ ns.n }}",
    "left": "{{ 'x'.ljust(1000000000) }}",
    "bytes of a number": "{{ (1).to_bytes(1000000000, 'big') }}",
    "width": "{{ '{:>1000000000}'.format(1) }}",
    "width within": "{{ '{:{w}}'.format(1, w=1000000000) }}",
    "width by percent": "{{ '%1000000000d' % 1 }}",
    "width by star": "{{ '%*d' % (1000000000, 1) }}",
    "width of a filter": "{{ 'x' | center(1000000000) }}",
    "format filter": "{{ '%1000000000d' | format(1) }}",
    "indent of json": "{{ [1] | tojson(indent=1000000000) }}",
    "indent": "{{ ('\n' * 100000) | indent('x' * 10000) }}",
    "replace": "{{ ('a' * 10000000) | replace('a', 'b' * 10000) }}",
    "replace method": "{{ ('a' * 10000000).replace('a', 'b' * 10000) }}",
    "join": "{{ range(99999) | join('x' * 1000000) }}",
    "join method": "{{ ('x' * 1000000).join(['a'] * 100000) }}",
    "tabs": "{{ ('\t' * 1000000).expandtabs(100000) }}",
    "format of a time": "{{ strftime_now('%1000000000d') }}",
    "slices": "{% set b = 'x' * 10000000 %}{% set ns = namespace(l=[]) %}{% for i in range(9999) %}"
    "{% set ns.l = ns.l + [b[1:]] %}{% endfor %}",
    "output in a block": "{% set b = 'x' * 10000000 %}"
    "{% set x %}{% for i in range(99999) %}{{ b }}{% endfor %}{% endset %}",
}

FORBIDDEN = {
    "class": "{{ ''.__class__.__mro__ }}",
    "class by item": "{{ ''['__class__'] }}{{ ''['__class__']['__mro__'] }}",
    "class by filter": "{{ (''|attr('__class__')).__mro__ }}",
    "class by format": "{{ '{0.__class__.__mro__}'.format('') }}",
    "globals": "{{ raise_exception.__globals__['json'] }}",
    "globals of a filter": "{{ cycler.__init__.__globals__ }}",
    "loop": "{% for i in [1] %}{{ loop.__class__.__init__.__globals__ }}{% endfor %}",
    "self": "{{ self._TemplateReference__context.environment.globals }}",
    "append": "{{ messages.append(1) }}",
    "update": "{{ messages[0].update(a=1) }}",
    "namespace": "{% set ns = namespace(__class__=1) %}",
    "namespace later": "{% set ns = namespace() %}{% set ns.__init__ = 1 %}",
    "lipsum": "{{ lipsum(100000000) }}",
    "include": "{% include '/etc/passwd' %}",
    "translate": "{{ 'a'.translate({97: 'bbb'}) }}",
}


@contextlib.contextmanager
def at_most(*, gigabytes: float, seconds: float) -> Iterator[None]:
    """What is made within the block; the memory of the process says nothing, where an earlier test took more."""
    started = time.monotonic()
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < gigabytes * 1e9
    finally:
        tracemalloc.stop()
    assert time.monotonic() - started < seconds


def test_the_measure_sees_what_is_made() -> None:
    with pytest.raises(AssertionError), at_most(gigabytes=0.01, seconds=5):
        bytearray(20_000_000)


@pytest.mark.parametrize("name", list(ENDLESS))
def test_a_template_that_does_not_end(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_budget, "MAX_RENDER_SECONDS", 0.2)
    template = ChatTemplate({"default": ENDLESS[name]}, {})
    ended = pytest.raises(ChatTemplateError, match=r"takes longer than 0\.2 seconds|makes more than|RecursionError")
    with at_most(gigabytes=0.5, seconds=5), ended:
        template.render(USER)


@pytest.mark.parametrize("name", list(ENORMOUS))
def test_a_template_that_grows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_budget, "MAX_VALUE", 2**20)
    monkeypatch.setattr(chat_budget, "MAX_SPENT", 2**23)
    ended = pytest.raises(ChatTemplateError, match=r"the chat template 'default' (makes|fails)")
    with at_most(gigabytes=0.1, seconds=5), ended:
        ChatTemplate({"default": ENORMOUS[name]}, {}).render(USER)


@pytest.mark.parametrize("name", list(FORBIDDEN))
def test_a_template_that_reaches_for_what_is_not_its_own(name: str) -> None:
    with pytest.raises(ChatTemplateError, match="the chat template 'default' fails: "):
        ChatTemplate({"default": FORBIDDEN[name]}, {}).render(USER)


@pytest.mark.parametrize(
    "source",
    ["{% for %}", "{{ 'a", "{% endfor %}", "{{ a | no_such_filter }}", "{% generation %}", "(" * 9 + "{{" + "(" * 5000],
)
def test_what_is_no_template(source: str) -> None:
    with pytest.raises(BundleError, match=r"the chat template 'default' cannot be read: .*\ncheck the model's chat_"):
        ChatTemplate({"default": source}, {})


def test_nothing_is_computed_while_a_template_is_read() -> None:
    started = time.monotonic()
    ChatTemplate({"default": "{{ 'a' * 10**9 }}{{ 'x' | center(1000000000) }}{{ 9 ** 9 ** 9 }}"}, {})
    assert time.monotonic() - started < 1


def test_renderings_do_not_share_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_budget, "MAX_SPENT", 1000)
    template = ChatTemplate({"default": "{{ 'x' * 400 }}"}, {})
    for _ in range(10):
        assert len(template.render(USER)) == 400


def test_a_long_chat_fits() -> None:
    chat = [{"role": "user", "content": "word " * 200}] * 2000
    template = ChatTemplate({"default": "{% for m in messages %}{{ m.role ~ m.content }}{% endfor %}"}, {})
    assert len(template.render(chat)) == 2000 * (4 + 1000)
