"""Runs a chat template that somebody else wrote: it may read what it is given and write text, and nothing else.

The environment is transformers' own: jinja2's immutable sandbox, blocks trimmed, `tojson` that escapes nothing,
`raise_exception`, `strftime_now`, `{% generation %}`. Limits are added, since a template may loop or grow without an
end: its syntax tree gets a tick at the start of every loop and macro, and what makes a value pays for its size.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections.abc import Mapping
from typing import Any

from aigc_runtime.errors import AigcError, BundleError, ChatTemplateError, TextSupportMissingError
from aigc_runtime.generation.chat_budget import Budget, deep_size, size
from aigc_runtime.generation.tokenizers.huggingface import TEXT_INSTALL

__all__ = ["ChatTemplateError", "CompiledTemplate", "compile_template"]

_SAFE_JINJA = (3, 1, 6)
"""Older versions have known ways out of the sandbox."""
_MAX_COUNT = 2**20
"""Largest whole number that a template may give to a method or a filter: most make that many characters of it."""
_INNER_FORMAT = re.compile(r"\{[^{}]*\{")
_LONG_WIDTH = re.compile(r"\d{5}")

_OVER_VALUES = {
    "abs", "attr", "batch", "count", "d", "default", "dictsort", "first", "float", "groupby", "int", "items", "last",
    "length", "list", "map", "max", "min", "random", "reject", "rejectattr", "reverse", "round", "select",
    "selectattr", "slice", "sort", "unique",
}  # fmt: skip
"""Filters that do not write their value as text."""


class CompiledTemplate:
    """A template that is ready to render.

    Args:
        template: of jinja2.
        name: for messages.
    """

    def __init__(self, template: Any, name: str) -> None:
        self._template = template
        self._name = name

    def render(self, variables: Mapping[str, Any], *, now: datetime.datetime | None) -> str:
        """The text.

        Raises:
            ChatTemplateError: the template refuses, fails, or takes too much.
        """
        with Budget.spending(now) as budget:
            try:
                text: str = self._template.render(variables)
                return text
            except AigcError:
                raise
            except _RefusedError as err:
                raise ChatTemplateError(
                    f"the chat template refuses this chat: {err.message}", hint="change the messages"
                ) from err
            # A template may provoke any exception of Python's.
            except Exception as err:
                if budget.exceeded:
                    raise ChatTemplateError(
                        f"the chat template {self._name!r} {budget.exceeded}",
                        hint="shorten the chat, or take another template",
                    ) from err
                raise ChatTemplateError(
                    f"the chat template {self._name!r} fails: {type(err).__name__}: {err}",
                    hint="check the messages: each template expects turns of its own form",
                ) from err


class _RefusedError(Exception):
    """What `raise_exception` raises."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def compile_template(source: str, *, name: str) -> CompiledTemplate:
    """Compile a template; nothing of it is run.

    Args:
        source: in the language of jinja.
        name: for messages.

    Raises:
        TextSupportMissingError: jinja2 is not installed, or too old; the hint is the install line.
        BundleError: it is no template.
    """
    environment, template_class = _environment()
    try:
        tree = environment.parse(source)
        _instrument(environment, tree)
        code = environment.compile(tree)
        return CompiledTemplate(template_class.from_code(environment, code, environment.make_globals(None)), name)
    except Exception as err:
        raise BundleError(
            f"the chat template {name!r} cannot be read: {type(err).__name__}: {err}",
            hint="check the model's chat_template: it must be a template of jinja",
        ) from err


def _environment() -> tuple[Any, Any]:
    try:
        import jinja2
        import jinja2.ext
        import jinja2.sandbox
        import jinja2.utils
    except ImportError as err:
        raise TextSupportMissingError(
            "this model's chat template needs the package jinja2, which is not installed", hint=TEXT_INSTALL
        ) from err
    if tuple(int(part) for part in re.findall(r"\d+", jinja2.__version__)[:3]) < _SAFE_JINJA:
        raise TextSupportMissingError(
            f"jinja2 {jinja2.__version__} is installed, whose sandbox has known ways out",
            hint=f"{TEXT_INSTALL} --upgrade",
        )

    class Limits(jinja2.ext.Extension):
        """Runs `{% generation %}` blocks, and counts what a template does."""

        tags = {"generation"}  # noqa: RUF012 - of jinja2

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("content"), [], [], body).set_lineno(line)

        def content(self, caller: Any) -> Any:
            return caller()

        def tick(self, cost: int) -> bool:
            Budget.active().tick(cost)
            return True

        def written(self, value: Any) -> Any:
            return _written(value)

        def made(self, value: Any) -> Any:
            return _made(value)

    class Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
        """What a template may do, within limits."""

        intercepted_binops = frozenset({"*", "+", "**", "%"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            _check_operands(operator, left, right)
            return _made(super().call_binop(context, operator, left, right))

        def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - as jinja2 has it
            _check_call(__obj, args, kwargs)
            return _made(super().call(__context, __obj, *args, **kwargs))

        def wrap_str_format(self, value: Any) -> Any:
            inner = super().wrap_str_format(value)
            return None if inner is None else _bounded_format(inner, value.__self__)

    class Names(jinja2.utils.Namespace):
        """A namespace without names that begin with an underscore."""

        def __init__(*args: Any, **kwargs: Any) -> None:
            self, args = args[0], args[1:]
            values = dict(*args, **kwargs)
            for name in values:
                _check_plain_name(name)
            jinja2.utils.Namespace.__init__(self, values)

        def __setitem__(self, name: str, value: Any) -> None:
            _check_plain_name(name)
            jinja2.utils.Namespace.__setitem__(self, name, value)

    environment = Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[Limits, jinja2.ext.loopcontrols],
        # Nothing is computed while a template is compiled: there are no limits then.
        optimized=False,
        finalize=jinja2.pass_context(lambda _context, value: _written(value)),
    )
    environment.filters = {name: _bounded_filter(name, function) for name, function in environment.filters.items()}
    environment.filters["tojson"] = _bounded_filter("tojson", _to_json)
    environment.globals = {name: value for name, value in environment.globals.items() if name != "lipsum"}
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "dict": _Dict(),
        "namespace": Names,
    }
    return environment, environment.template_class


def _instrument(environment: Any, tree: Any) -> None:
    """Put a tick into every loop, macro and block, and a price on what makes a value without a call."""
    from jinja2 import nodes

    limits = next(e for e in environment.extensions.values() if type(e).__name__ == "Limits")

    def tick(body: list[Any]) -> Any:
        cost = sum(len(data.data) for node in body for data in _texts(node))
        return limits.call_method("tick", [nodes.Const(cost)])

    for node in [*tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.AssignBlock))]:
        node.body.insert(0, nodes.ExprStmt(tick(node.body)).set_lineno(node.lineno))
        if isinstance(node, nodes.For) and node.test is not None:
            node.test = nodes.And(tick([]), node.test)
    for node in [*tree.find_all(nodes.Concat)]:
        node.nodes = [limits.call_method("written", [child]) for child in node.nodes]
    _wrap(tree, limits, nodes)
    tree.set_environment(environment)


def _texts(node: Any) -> list[Any]:
    from jinja2 import nodes

    return [node] if isinstance(node, nodes.TemplateData) else [*node.find_all(nodes.TemplateData)]


def _wrap(node: Any, limits: Any, nodes: Any) -> None:
    """Make lists, objects and slices of strings pay for what they hold."""
    for name, value in [*node.iter_fields()]:
        children = value if isinstance(value, list) else [value]
        for i, child in enumerate(children):
            if not isinstance(child, nodes.Node):
                continue
            _wrap(child, limits, nodes)
            literal = isinstance(child, (nodes.List, nodes.Dict)) or (
                isinstance(child, nodes.Tuple) and child.ctx == "load"
            )
            sliced = isinstance(child, nodes.Getitem) and isinstance(child.arg, nodes.Slice)
            if literal or sliced:
                made = limits.call_method("made", [child])
                if isinstance(value, list):
                    value[i] = made
                else:
                    setattr(node, name, made)


def _written(value: Any) -> Any:
    """Pay for a value that is about to be written as text."""
    Budget.active().spend(deep_size(value))
    return value


def _made(value: Any) -> Any:
    """Pay for a value that was made."""
    Budget.active().spend(deep_size(value) if isinstance(value, (list, tuple, dict)) else size(value))
    return value


def _check_operands(operator: str, left: Any, right: Any) -> None:
    budget = Budget.active()
    if operator == "*":
        for many, times in ((left, right), (right, left)):
            if isinstance(times, int) and (isinstance(many, (str, bytes, list, tuple))):
                budget.check(len(many) * max(times, 0))
        if isinstance(left, int) and isinstance(right, int):
            budget.check_bits(left.bit_length() + right.bit_length())
    elif operator == "**":
        if isinstance(left, int) and isinstance(right, int):
            budget.check_bits(left.bit_length() * abs(right))
    elif operator == "%" and isinstance(left, (str, bytes)):
        text = left if isinstance(left, str) else left.decode("latin-1")
        _check_widths(text)
        if "*" in text:
            raise ValueError("a width of * in a format")
        _written(right)
    elif operator == "+":
        budget.check(size(left) + size(right))


def _check_call(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Refuse a method of Python's own that would make more than is allowed."""
    budget = Budget.active()
    budget.tick(1)
    of = getattr(function, "__self__", None)
    if not isinstance(of, (str, bytes, int, list, tuple, dict)):
        return
    given = [*args, *kwargs.values()]
    _check_counts(given)
    name = getattr(function, "__name__", "")
    if name == "replace" and len(args) > 1:
        _check_replacement(of, args[0], args[1])
    elif name == "join" and args:
        _check_joined(of, args[0])
    elif name == "translate":
        raise ValueError("translate is not allowed in a chat template")
    elif name == "expandtabs":
        budget.check(size(of) * max([8, *(i for i in given if isinstance(i, int))]))


def _check_counts(values: list[Any]) -> None:
    for value in values:
        if isinstance(value, int) and abs(value) > _MAX_COUNT:
            raise ValueError(f"the number {value:.3g} for a count")


def _check_widths(text: str) -> None:
    if _LONG_WIDTH.search(text):
        raise ValueError("a width of five digits or more in a format")


def _check_replacement(text: Any, old: Any, new: Any) -> None:
    Budget.active().check(size(text) + (size(text) // max(size(old), 1) + 1) * size(new))


def _check_joined(separator: Any, values: Any) -> None:
    if isinstance(values, (list, tuple, dict)):
        Budget.active().check(deep_size(values) + len(values) * size(separator))


def _bounded_format(inner: Any, form: str) -> Any:
    """`str.format` without widths that would fill the memory."""

    def bounded(*args: Any, **kwargs: Any) -> Any:
        _check_widths(form)
        if _INNER_FORMAT.search(form):
            raise ValueError("a format within a format")
        _written([*args, *kwargs.values()])
        return inner(*args, **kwargs)

    return bounded


def _bounded_filter(name: str, function: Any) -> Any:
    """A filter that pays for what it makes."""
    skip = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        given = args[skip:]
        value, rest = given[0], [*given[1:], *kwargs.values()]
        Budget.active().tick(1)
        _check_counts([v for v in rest if name not in ("default", "d")])
        if name == "join" and not isinstance(value, (str, list, tuple, dict)):
            # What is read once is read here, so that its size is known.
            value = list(value)
            args = (*args[:skip], value, *args[skip + 1 :])
        if name not in _OVER_VALUES:
            _written(value)
        if name == "replace":
            old, new = [*rest, "", ""][:2]
            _check_replacement(value, old, new)
        elif name == "join":
            _check_joined(rest[0] if rest else "", value)
        elif name == "format":
            _check_operands("%", value, tuple(rest))
        elif name == "indent":
            width = rest[0] if rest and isinstance(rest[0], int) else size(rest[0]) if rest else 4
            Budget.active().check(size(value) + (str(value).count("\n") + 1) * width)
        return _made(function(*args, **kwargs))

    return bounded


class _Dict:
    """`dict` of a template: makes one, and has nothing else to reach."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


def _check_plain_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise ValueError(f"a namespace cannot hold {name!r}")


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: object) -> None:
    raise _RefusedError(str(message))


def _strftime_now(form: str) -> str:
    if len(form) > 256 or _LONG_WIDTH.search(form):
        raise ValueError(f"the form of a time: {form[:40]!r}")
    return (Budget.active().now or datetime.datetime.now()).strftime(form)
