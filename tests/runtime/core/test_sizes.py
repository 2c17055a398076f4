"""The language of sizes: what PyTorch's symbolic shapes need, its canonical text, and texts that mean harm."""

from __future__ import annotations

import random

import pytest

from aigc_runtime.core.sizes import (
    MAX_SIZE,
    MAX_SIZE_TEXT,
    add_sizes,
    check_shape,
    is_dim_name,
    parse_size,
    shape_names,
    shape_value,
    size_names,
    size_value,
)
from aigc_runtime.errors import ConfigError

SIZES = {"a": 7, "b": 3, "c": 10, "height": 9, "past": 0}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("height", 9),
        ("2*height", 18),
        ("height//2", 4),
        ("4*(c//8)", 4),
        ("4*c//8", 5),
        ("past+a", 7),
        ("(height+1)//2", 5),
        ("(height-1)//2+1", 5),
        ("a-b-c", -6),
        ("a-(b-c)*2", 21),
        ("-a+c", 3),
        ("(-a)//2", -4),
        ("-a//2", -3),
        ("a//2//2", 1),
        ("2*(a+b)*(c-1)", 180),
        ("a*b*c//4", 52),
        ("0*a+1", 1),
        ("(a+0)", 7),
    ],
)
def test_the_value_is_that_of_python(text: str, value: int) -> None:
    parsed = parse_size(text)
    assert parsed.value(SIZES) == value
    assert parse_size(parsed.text).value(SIZES) == value


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("((s0 - 1)//2) + 1", "(s0-1)//2+1"),
        ("(2*s0)", "2*s0"),
        ("(a*b)*c", "a*b*c"),
        ("a*(b*c)", "a*b*c"),
        ("a*(b//2)", "a*(b//2)"),
        ("(a*b)//2", "a*b//2"),
        ("a+(b+c)", "a+b+c"),
        ("a-(b-c)", "a-b+c"),
        ("-(a-b)", "-a+b"),
        ("(a)", "a"),
        ("((a+b))*((2))", "(a+b)*2"),
        ("2*(-a)", "2*(-a)"),
        ("(a//2)*b", "a//2*b"),
        (" a ", "a"),
    ],
)
def test_one_size_has_one_text(text: str, canonical: str) -> None:
    assert parse_size(text).text == canonical
    assert parse_size(canonical).text == canonical


def test_random_sizes_keep_their_value_in_canonical_text() -> None:
    rng = random.Random(0)

    def draw(depth: int) -> str:
        kind = rng.randrange(6 if depth else 2)
        if kind == 0:
            return rng.choice(["a", "b", "c"])
        if kind == 1:
            return str(rng.randrange(5))
        if kind == 2:
            return f"({draw(depth - 1)})//{rng.randrange(1, 5)}"
        operator = rng.choice(["+", "-", "*", " * ", " - "])
        return f"({draw(depth - 1)}){operator}({draw(depth - 1)})"

    for _ in range(500):
        text = draw(4)
        if len(text) > MAX_SIZE_TEXT:
            continue
        wanted = eval(text, {}, dict(SIZES))  # Python itself is the independent reading
        parsed = parse_size(text)
        if parsed.names:
            assert parsed.value(SIZES) == wanted, text
        assert parse_size(parsed.text) == parsed, text


def test_names_are_listed_once_and_in_order() -> None:
    assert parse_size("b+a*(b-1)").names == ("b", "a")
    assert (size_names(3), size_names("past+a")) == ((), ("past", "a"))
    assert shape_names((3, "a", "past+a")) == ("a", "past")


def test_a_size_without_all_of_its_dimensions_has_no_value() -> None:
    assert parse_size("a+b").value({"a": 1}) is None
    assert (size_value(4, {}), size_value("a", {})) == (4, None)
    assert shape_value((2, "2*a"), {"a": 3}) == (2, 6)
    with pytest.raises(ConfigError, match="no size for dimension 'b' of input 'x'\ngiven: \\['a'\\]"):
        shape_value(("a", "a+b"), {"a": 1}, "input 'x'")


@pytest.mark.parametrize(
    ("text", "is_sum"),
    [
        *((text, True) for text in ("a", "a+b", "a+1", "1+a+b")),
        *((text, False) for text in ("a+a", "a-1", "2*a", "a//2", "-a", "1+1")),
    ],
)
def test_what_an_input_may_have(text: str, is_sum: bool) -> None:
    assert parse_size(text).is_sum == is_sum


def test_sizes_are_added() -> None:
    assert add_sizes("past", "sequence") == "past+sequence"
    assert add_sizes("a-b", 2, "c") == "a-b+2+c"
    assert add_sizes(2, 3) == 5


HOSTILE = [
    "",
    " ",
    "__import__('os').system('x')",
    "a.b",
    "a[0]",
    "a**2",
    "a/2",
    "a%2",
    "a,b",
    "a b",
    "a\n",
    "a\t+b",
    "a+",
    "+a",
    "--a",
    "a--b",
    "2*-a",
    "()",
    "(a",
    "a)",
    ")",
    "(a))",
    "a//0",
    "a//b",
    "a//(2)",
    "a//-2",
    "a///2",
    "01",
    "1a",
    "1_000",
    "0x10",
    "1e9",
    "1.5",
    "é",
    "a\u00b2",
    "\u0661",
    "\uff41",
    "a\0",
    "\u202ea",
    str(MAX_SIZE + 1),
    "9" * 200,
    "a" * 65,
    "a" * (MAX_SIZE_TEXT + 1),
    "(" * 17 + "a" + ")" * 17,
    "(" * 255,
    "lambda:0",
    "a if b else c",
    "a;b",
    "{a}",
    "'a'",
    "a=b",
    "a<b",
    "~a",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_that_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_size(text)
    assert str(caught.value).isascii()
    assert str(caught.value).replace("\n", "").isprintable()
    with pytest.raises(ConfigError, match="tensor 'x'"):
        check_shape("tensor 'x'", ("batch", text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a+", "'a+' is not a size: a number, a name or ( was expected at character 3"),
        ("(a", "'(a' is not a size: ) was expected at character 3"),
        ("a b", "'a b' is not a size: nothing more was expected at character 2"),
        ("a.b", "'a.b' is not a size: this is no part of a size at character 2"),
        ("a//b", "'a//b' is not a size: a size is divided by a number above 0 alone at character 4"),
        ("9" * 11, "numbers go up to 2147483647"),
        ("a" * 65, "names have at most 64 characters"),
        ("(" * 17 + "a" + ")" * 17, "parentheses go 16 deep at most"),
        ("a" * 256, "a size in a shape has 256 characters\nat least 1, at most 255"),
    ],
)
def test_the_refusal_says_what_and_where(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_size(text)
    assert message in str(caught.value)


def test_the_largest_size_that_can_be_written_has_a_value_at_once() -> None:
    text = "*".join(["a"] * 128)
    assert parse_size(text).value({"a": MAX_SIZE}) == MAX_SIZE**128


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (("batch", "2 * height"), "tensor 'x' has size '2 * height'\nwrite it as '2*height'"),
        (("batch", "(a)"), "write it as 'a'"),
        (("2*3",), "tensor 'x' has size '2*3'\nwrite a size without dimensions as a number"),
        ((0,), "tensor 'x' has shape [0]\nsizes must be from 1 to 2147483647"),
        ((2**31,), "sizes must be from 1 to 2147483647"),
    ],
)
def test_a_shape_that_means_nothing_or_is_not_canonical(shape: tuple[int | str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_shape("tensor 'x'", shape)
    assert message in str(caught.value)


def test_names_of_dimensions() -> None:
    assert all(map(is_dim_name, ["batch", "_", "s0", "Height_2", "a" * 64]))
    assert not any(map(is_dim_name, ["", "2a", "a-b", "a b", "é", "a" * 65, "a\n"]))
