from __future__ import annotations

from dataclasses import replace

import pytest

from aigc_runtime.bundle.manifest_file import dump_manifest, parse_manifest
from aigc_runtime.errors import BundleError, ConfigError, InputError
from aigc_runtime.pipelines.class_names import check_class_names, class_table, parse_classes
from aigc_runtime.pipelines.settings import DiffusionSettings

from .. import toys

NFC, NFD = "Zo\u00eb", "Zoe\u0308"


@pytest.mark.parametrize(
    ("text", "names", "labels"),
    [
        ("1", None, [1]),
        ("2,0,2", ("a", "b", "c"), [2, 0, 2]),
        ("b, c", ("a", "b", "c"), [1, 2]),
        ("1", ("1", "2"), [0]),  # a name counts before a number
        ("0", ("1", "2"), [0]),
        ("a,b", ("a", "b", "a,b"), [2]),
        (NFD, ("x", NFC), [1]),
    ],
)
def test_names_and_numbers(text: str, names: tuple[str, ...] | None, labels: list[int]) -> None:
    assert parse_classes(text, names, 3 if names is None else len(names)) == labels


@pytest.mark.parametrize("text", ["", "3", "-1", "1.0", "a,", "\u0663", "9" * 5000, "A"])
def test_what_is_no_class(text: str) -> None:
    with pytest.raises(InputError, match="no class"):
        parse_classes(text, ("a", "b", "c"), 3)


def test_the_nearest_name_is_offered_and_many_are_cut() -> None:
    with pytest.raises(InputError, match=r"0 china, 1 flower; give names .* Did you mean 'flower'"):
        parse_classes("flowre", ("china", "flower"), 2)
    assert class_table([str(i) for i in range(30)]).endswith("19 19, ... 10 more")


@pytest.mark.parametrize(
    ("names", "classes", "message"),
    [
        (("a",), 2, "has 1 entries, num_classes is 2"),
        (("a",), None, "has 1 entries, num_classes is None"),
        (("a", "a"), 2, "holds 'a' twice, as 0 and 1"),
        ((NFC, NFD), 2, "twice"),
        (("a", ""), 2, r"class_names\[1\] is ''"),
        (("a\n", "b"), 2, r"class_names\[0\] is 'a\\n'"),
        (("a", "\x1b[2J"), 2, r"is '\\x1b\[2J'"),
        (("a", "b\udcff"), 2, r"is 'b\\udcff'"),
        (("a", "\u202eb"), 2, "is "),
        (("a", " b"), 2, "is ' b'"),
        (("a", "b" * 256), 2, "1 to 255 printable"),
    ],
)
def test_names_that_are_not_allowed(names: tuple[str, ...], classes: int | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_class_names(names, classes)


def test_names_that_are_allowed() -> None:
    check_class_names(None, 3)
    check_class_names(("Gänseblümchen", "北京", "a b"), 3)


def test_a_manifest_carries_them_and_refuses_bad_ones() -> None:
    manifest, _ = toys.toy_manifest("toy_unet")
    settings = manifest.pipeline.settings
    assert isinstance(settings, DiffusionSettings)
    assert settings.class_names == toys.DIFFUSION.class_names
    with pytest.raises(ConfigError, match="twice"):
        replace(settings, class_names=("a", "a", "b"))
    data = dump_manifest(manifest).replace(b'"honey bee"', b'"ant"')
    with pytest.raises(BundleError, match="holds 'ant' twice"):
        parse_manifest(data)
