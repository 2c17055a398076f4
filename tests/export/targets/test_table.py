"""Targets are looked up by name; a recipe holds the target itself."""

from __future__ import annotations

import pytest

from aigc_export.recipes.recipe import export_recipe
from aigc_export.targets import DEFAULT_TARGET
from aigc_export.targets.table import TARGETS, get_target, known_targets
from aigc_runtime.device.probe import probe_device
from aigc_runtime.errors import UnknownNameError


def test_every_target_goes_by_its_own_name() -> None:
    assert all(get_target(name).name == name for name in TARGETS)
    assert known_targets() == tuple(TARGETS.values())
    assert DEFAULT_TARGET in TARGETS


def test_a_recipe_takes_a_name_or_a_target() -> None:
    assert export_recipe("gan", target="ort-cuda").target is TARGETS["ort-cuda"]
    assert export_recipe("gan", target=TARGETS["ort-cuda"]).target is TARGETS["ort-cuda"]
    assert export_recipe("gan").target.name == DEFAULT_TARGET


def test_an_unknown_target_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown target 'ort_cpu'") as caught:
        get_target("ort_cpu")
    assert "Did you mean 'ort-cpu'?" in caught.value.hint


def test_what_a_target_leaves_out_is_refused_with_a_reason() -> None:
    everything = {precision for target in TARGETS.values() for precision in target.precisions}
    for target in TARGETS.values():
        assert target.refused.keys() == everything - set(target.precisions)


@pytest.mark.parametrize("name", list(TARGETS))
def test_every_target_says_what_is_missing_here(name: str) -> None:
    found = TARGETS[name].doctor(probe_device())
    assert found.summary
    assert found.builds or "pip install" in found.summary or "GPU" in found.summary
