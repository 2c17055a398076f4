"""Hints become a configuration; what the user chose stands; those of the shipped models name their modules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from aigc_calibration.config import QuantConfig
from aigc_calibration.sites import find_sites
from aigc_export.prepare.prepare import Reporter, prepare_graph
from aigc_export.recipes.hints import with_hints
from aigc_export.recipes.recipe import export_recipe
from aigc_models.program import QuantHints
from aigc_runtime.errors import UnknownNameError

from ..conftest import make_program, tiny_of

HINTS = QuantHints(sensitive=("a", "b"), sensitive_int8=("a",), wide=("head",), smooth={"gain": 0.5})


def test_integers_have_exceptions_of_their_own() -> None:
    for precision in ("int8", "auto"):
        assert with_hints(QuantConfig(), HINTS, precision).sensitive == ("a",)
    for precision in ("fp8", "int4", "int8-weight", "fp16"):
        assert with_hints(QuantConfig(), HINTS, precision).sensitive == ("a", "b")
    alike = QuantHints(sensitive=("a",))
    assert with_hints(QuantConfig(), alike, "int8").sensitive == ("a",)
    none = QuantHints(sensitive=("a",), sensitive_int8=())
    assert with_hints(QuantConfig(), none, "int8").sensitive == ()


def test_the_rest_holds_in_every_precision() -> None:
    for precision in ("int8", "fp8", "int4"):
        found = with_hints(QuantConfig(samples=7, keep_float=("x",)), HINTS, precision)
        assert (found.wide, found.smooth, found.samples, found.keep_float) == (("head",), {"gain": 0.5}, 7, ("x",))
    assert with_hints(QuantConfig(), QuantHints(), "int8") == QuantConfig()


def test_what_the_recipe_says_stands() -> None:
    own = QuantConfig(sensitive=("c",), wide=("d",), smooth={"layer": 0.1})
    assert with_hints(own, HINTS, "int8") == own


def test_a_hint_that_means_nothing_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown place of smoothing 'norm'"):
        with_hints(QuantConfig(), QuantHints(smooth={"norm": 0.5}), "int8")


def hinted(name: str) -> Iterator[str]:
    hints = tiny_of(name).program.part.hints
    yield from hints.sensitive
    yield from hints.sensitive_int8 or ()
    yield from hints.wide


@pytest.mark.parametrize("name", ["lm-growing", "unet", "gan"])
def test_the_hints_of_the_shipped_architectures_name_modules_that_are_there(name: str) -> None:
    sites = [site.module for site in find_sites(tiny_of(name).captured.model)]
    assert QuantConfig(keep_float=tuple(hinted(name))).check_modules(sites) == ()
    assert list(hinted(name))


def test_a_hint_that_names_no_module_is_reported() -> None:
    program = make_program("gan")
    part = replace(program.part, hints=QuantHints(sensitive=("projekt",)))
    recipe = export_recipe(
        replace(program, parts={part.name: part}), precision="int8", calibration_samples=16, quality_samples=0
    )
    reporter = Reporter(None)
    prepare_graph(recipe, reporter)
    (warning,) = reporter.warnings
    assert "sensitive names the module 'projekt'" in warning
    assert "nearest: project" in warning
