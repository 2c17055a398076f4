"""The settings of a target are its own: what it does not have is refused by name."""

from __future__ import annotations

import pytest

from aigc_export.recipes.recipe import export_recipe
from aigc_export.targets.base import NoSettings, settings_for
from aigc_export.targets.table import TARGETS
from aigc_export.targets.tensorrt.settings import BuildSettings
from aigc_runtime.errors import ConfigError


def test_settings_come_as_fields_as_an_object_or_not_at_all() -> None:
    compiled = TARGETS["tensorrt"]
    assert settings_for(compiled, None) == BuildSettings()
    assert settings_for(compiled, {"tf32": True}) == BuildSettings(tf32=True)
    assert settings_for(compiled, BuildSettings(tf32=True)) == BuildSettings(tf32=True)
    assert settings_for(TARGETS["ort-cpu"], {}) == NoSettings()


def test_a_target_refuses_settings_that_it_does_not_have() -> None:
    with pytest.raises(ConfigError, match="target 'ort-cpu' compiles nothing, so it takes no tf32"):
        export_recipe("gan", build={"tf32": True})
    with pytest.raises(ConfigError, match="target 'ort-cpu' compiles nothing, so it takes no BuildSettings"):
        export_recipe("gan", build=BuildSettings())
    with pytest.raises(ConfigError, match="target 'tensorrt' has no setting tf23") as caught:
        export_recipe("gan", target="tensorrt", build={"tf23": True})
    assert "tf32" in caught.value.hint
