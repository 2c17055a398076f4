"""The language of sizes: what a number in a tensor's shape may be, when it follows from named dimensions.

    size    = ["-"] product {("+" | "-") product}
    product = factor {"*" factor | "//" number}
    factor  = number | name | "(" size ")"
    number  = decimal digits, no leading zero, at most 2147483647
    name    = a letter or "_", then letters, digits and "_", all ASCII, at most 64

`//` rounds towards minus infinity and divides by a number above 0 alone, so that every size has a value. Each size has
one canonical text: no blanks, no parentheses that change nothing. A text is parsed once, and never evaluated as code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from aigc_runtime.errors import ConfigError

__all__ = [
    "MAX_SIZE",
    "MAX_SIZE_TEXT",
    "Shape",
    "Size",
    "SizeExpression",
    "add_sizes",
    "check_shape",
    "is_dim_name",
    "parse_size",
    "shape_names",
    "shape_value",
    "size_names",
    "size_value",
]

Size = int | str
"""An entry of a shape: a number, or the text of a size that follows from named dimensions."""

Shape = tuple[Size, ...]

MAX_SIZE = 2**31 - 1
MAX_SIZE_TEXT = 255
_MAX_DEPTH = 16
_MAX_NAME = 64

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_TOKEN = re.compile(r" *([A-Za-z_][A-Za-z0-9_]*|0|[1-9][0-9]*|//|[-+*()])")

# A sum is a tuple of (sign, product), a product a tuple of (operator, factor) whose first operator is "*", and a factor
# a number, a name or a sum.
_Sum = tuple[tuple[int, "_Product"], ...]
_Product = tuple[tuple[str, "_Factor"], ...]
_Factor = int | str | _Sum


@dataclass(frozen=True, kw_only=True)
class SizeExpression:
    """A size that was parsed.

    Attributes:
        text: its canonical text.
        names: of the dimensions in it, each once, in the order of the text.
        terms: what is added up.
    """

    text: str
    names: tuple[str, ...]
    terms: _Sum

    def value(self, sizes: Mapping[str, int]) -> int | None:
        """The number for given sizes of the dimensions; None if one of them is not given.

        >>> parse_size("(height+1)//2").value({"height": 7})
        4
        """
        return _sum_value(self.terms, sizes) if all(name in sizes for name in self.names) else None

    @property
    def is_sum(self) -> bool:
        """Whether it is a name, or a sum of different names and numbers: what an input may have."""
        plain = [product[0][1] for sign, product in self.terms if sign > 0 and len(product) == 1]
        names = [part for part in plain if isinstance(part, str)]
        numbers = [part for part in plain if isinstance(part, int)]
        return len(names) + len(numbers) == len(self.terms) and len(set(names)) == len(names) and bool(names)


def is_dim_name(name: str) -> bool:
    """Whether a dimension can be called that."""
    return _NAME.fullmatch(name) is not None


@lru_cache(maxsize=4096)
def parse_size(text: str) -> SizeExpression:
    """Parse a size. Blanks and parentheses that change nothing are allowed here; `SizeExpression.text` has none.

    >>> parse_size("((s0 - 1)//2) + (2*s1)").text
    '(s0-1)//2+2*s1'

    Raises:
        ConfigError: not a size; says where.
    """
    if not isinstance(text, str) or not 0 < len(text) <= MAX_SIZE_TEXT:
        raise ConfigError(
            f"a size in a shape has {len(text):,} characters", hint=f"at least 1, at most {MAX_SIZE_TEXT}"
        )
    terms = _Parser(text).parse()
    return SizeExpression(text=_sum_text(terms), names=tuple(dict.fromkeys(_sum_names(terms))), terms=terms)


class _Parser:
    """A parser by recursive descent; its depth is bounded by the number of open parentheses."""

    def __init__(self, text: str) -> None:
        self._text, self._at, self._depth = text, 0, 0

    def parse(self) -> _Sum:
        terms = self._sum()
        if self._peek() is not None:
            raise self._refuse("nothing more was expected")
        return terms

    def _peek(self) -> str | None:
        """The next token; None at the end."""
        match = _TOKEN.match(self._text, self._at)
        if match is None and self._text[self._at :].strip(" "):
            raise self._refuse("this is no part of a size")
        return None if match is None else match[1]

    def _take(self) -> str:
        match = _TOKEN.match(self._text, self._at)
        assert match is not None
        self._at = match.end()
        return match[1]

    def _sum(self) -> _Sum:
        sign = 1
        if self._peek() == "-":
            self._take()
            sign = -1
        terms = [*_signed(sign, self._product())]
        while (operator := self._peek()) in ("+", "-"):
            self._take()
            terms += _signed(1 if operator == "+" else -1, self._product())
        return tuple(terms)

    def _product(self) -> _Product:
        factors = [*_factors(self._factor(), first=True)]
        while (operator := self._peek()) in ("*", "//"):
            self._take()
            if operator == "*":
                factors += _factors(self._factor(), first=False)
            else:
                factors.append(("//", self._divisor()))
        return tuple(factors)

    def _divisor(self) -> int:
        found = self._peek()
        if found is None or not found.isdigit() or found == "0":
            raise self._refuse("a size is divided by a number above 0 alone")
        return self._number()

    def _number(self) -> int:
        found = self._peek()
        if found is None or len(found) > len(str(MAX_SIZE)) or int(found) > MAX_SIZE:
            raise self._refuse(f"numbers go up to {MAX_SIZE}")
        return int(self._take())

    def _factor(self) -> _Factor:
        found = self._peek()
        if found is None or found in ("+", "-", "*", "//", ")"):
            raise self._refuse("a number, a name or ( was expected")
        if found == "(":
            return self._parentheses()
        if found.isdigit():
            return self._number()
        if not is_dim_name(found):
            raise self._refuse(f"names have at most {_MAX_NAME} characters")
        return self._take()

    def _parentheses(self) -> _Factor:
        if self._depth == _MAX_DEPTH:
            raise self._refuse(f"parentheses go {_MAX_DEPTH} deep at most")
        self._take()
        self._depth += 1
        inner = self._sum()
        if self._peek() != ")":
            raise self._refuse(") was expected")
        self._take()
        self._depth -= 1
        return inner

    def _refuse(self, why: str) -> ConfigError:
        return ConfigError(
            f"{self._text!a} is not a size: {why} at character {self._at + 1}",
            hint="a size is made of dimensions and numbers with +, -, *, // and parentheses, like (height+1)//2",
        )


def _signed(sign: int, product: _Product) -> Iterator[tuple[int, _Product]]:
    """A term; a sum in parentheses becomes several, since `a-(b-c)` is `a-b+c`."""
    inner = product[0][1] if len(product) == 1 else None
    if isinstance(inner, tuple):
        yield from ((sign * own, term) for own, term in inner)
    else:
        yield sign, product


def _factors(factor: _Factor, *, first: bool) -> Iterator[tuple[str, _Factor]]:
    """A factor; a product in parentheses becomes several where the order of `*` and `//` stays the same."""
    if isinstance(factor, tuple) and len(factor) == 1 and factor[0][0] > 0:
        product = factor[0][1]
        if first or all(operator == "*" for operator, _ in product):
            yield from product
            return
    yield "*", factor


def _sum_value(terms: _Sum, sizes: Mapping[str, int]) -> int:
    return sum(sign * _product_value(product, sizes) for sign, product in terms)


def _product_value(product: _Product, sizes: Mapping[str, int]) -> int:
    total = 1
    for operator, factor in product:
        number = factor if isinstance(factor, int) else sizes[factor] if isinstance(factor, str) else None
        if number is None:
            number = _sum_value(factor, sizes)  # type: ignore[arg-type]
        total = total * number if operator == "*" else total // number
    return total


def _sum_text(terms: _Sum) -> str:
    parts = [("-" if sign < 0 else "+") + _product_text(product) for sign, product in terms]
    return "".join(parts).removeprefix("+")


def _product_text(product: _Product) -> str:
    parts = [
        operator + (f"({_sum_text(factor)})" if isinstance(factor, tuple) else str(factor))
        for operator, factor in product
    ]
    return "".join(parts).removeprefix("*")


def _factor_text(factor: _Factor) -> str:
    return f"({_sum_text(factor)})" if isinstance(factor, tuple) else str(factor)


def _sum_names(terms: _Sum) -> Iterator[str]:
    for _, product in terms:
        for _, factor in product:
            if isinstance(factor, str):
                yield factor
            elif isinstance(factor, tuple):
                yield from _sum_names(factor)


def size_names(size: Size) -> tuple[str, ...]:
    """The dimensions that a size speaks of; none for a number."""
    return () if isinstance(size, int) else parse_size(size).names


def shape_names(shape: Sequence[Size]) -> tuple[str, ...]:
    """The dimensions that a shape speaks of, each once."""
    return tuple(dict.fromkeys(name for size in shape for name in size_names(size)))


def size_value(size: Size, sizes: Mapping[str, int]) -> int | None:
    """The number that a size is; None if a dimension of it is not given."""
    return size if isinstance(size, int) else parse_size(size).value(sizes)


def shape_value(shape: Sequence[Size], sizes: Mapping[str, int], what: str = "a shape") -> tuple[int, ...]:
    """The numbers that a shape is.

    Args:
        shape: of a tensor.
        sizes: of the named dimensions.
        what: the tensor in words, for the message.

    Raises:
        ConfigError: a dimension is not given.
    """
    values = [size_value(size, sizes) for size in shape]
    if None in values:
        missing = next(name for name in shape_names(shape) if name not in sizes)
        raise ConfigError(f"no size for dimension {missing!r} of {what}", hint=f"given: {sorted(sizes)}")
    return tuple(value for value in values if value is not None)


def add_sizes(*sizes: Size) -> Size:
    """The sum of sizes, in canonical text where a dimension is in it.

    >>> add_sizes("past", "sequence")
    'past+sequence'
    """
    if all(isinstance(size, int) for size in sizes):
        return sum(size for size in sizes if isinstance(size, int))
    return parse_size("+".join(f"({size})" for size in sizes)).text


def check_shape(what: str, shape: Shape) -> None:
    """Refuse sizes that are out of range, no sizes at all, or not in canonical text.

    Args:
        what: the tensor in words, for the message.
        shape: of it.

    Raises:
        ConfigError: says which.
    """
    if any(isinstance(size, int) and not 1 <= size <= MAX_SIZE for size in shape):
        raise ConfigError(f"{what} has shape {list(shape)}", hint=f"sizes must be from 1 to {MAX_SIZE}")
    for size in shape:
        if isinstance(size, int):
            continue
        try:
            parsed = parse_size(size)
        except ConfigError as err:
            raise ConfigError(f"{what}: {err.message}", hint=err.hint) from err
        if not parsed.names:
            raise ConfigError(f"{what} has size {size!r}", hint="write a size without dimensions as a number")
        if parsed.text != size:
            raise ConfigError(f"{what} has size {size!r}", hint=f"write it as {parsed.text!r}")
