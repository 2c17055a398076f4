"""Profiles follow from a model's dimensions; what the user gives is completed and checked."""

from __future__ import annotations

import pytest
from torch import nn

from aigc_export.targets.profiles import derive_profiles, input_shapes, narrowed, parse_profile
from aigc_export.targets.tensorrt.settings import BuildSettings
from aigc_models.carried_form import fixed_capacity
from aigc_models.program import Part
from aigc_runtime.core.shape_profiles import ShapeProfile
from aigc_runtime.errors import ConfigError, UnknownNameError

from ...runtime import mixed
from ..conftest import tiny_of


def test_a_language_model_gets_a_profile_for_the_prompt_and_one_for_each_token() -> None:
    prefill, decode = derive_profiles(tiny_of("lm-growing").program)
    assert prefill.dims == {"batch": (1, 1, 16), "kept": (1, 1, 64), "sequence": (1, 48, 96), "past": (0, 0, 96)}
    assert decode.dims == {"batch": (1, 1, 16), "kept": (1, 1, 1), "sequence": (1, 1, 1), "past": (0, 48, 96)}
    shapes = input_shapes(tiny_of("lm-growing").program.part, decode)
    assert shapes["input_ids"] == ((1, 1), (1, 1), (16, 1))
    assert shapes["past_key_0"] == ((1, 2, 0, 8), (1, 2, 48, 8), (16, 2, 96, 8))
    prefill, decode = derive_profiles(fixed_capacity(tiny_of("lm-buffer").program))
    assert decode.dims == {"batch": (1, 1, 16), "kept": (1, 1, 1), "sequence": (1, 1, 1)}


def test_images_get_one_profile() -> None:
    assert [p.dims for p in derive_profiles(tiny_of("gan").program)] == [{"batch": (1, 1, 16)}]
    (cross,) = derive_profiles(tiny_of("unet-cross").program)
    assert cross.dims["height"] == (2, 8, 16)
    assert cross.dims["tokens"] == (1, 77, 154)


def test_the_users_profiles_replace_the_derived() -> None:
    program = tiny_of("lm-growing").program
    given = [parse_profile("batch=1:2:4,sequence=1", number=0), parse_profile("prompt/sequence=8:16:32", number=1)]
    one, two = derive_profiles(program, given)
    derived = {"kept": (1, 1, 64), "past": (0, 48, 96)}
    assert (one.name, one.dims) == ("profile-0", {"batch": (1, 2, 4), "sequence": (1, 1, 1), **derived})
    assert (two.name, two.dims["sequence"]) == ("prompt", (8, 16, 32))
    dims = {d.name: (d.min, d.max) for d in narrowed(program.part.interface, [one, two]).dims}
    assert dims == {"batch": (1, 16), "kept": (1, 64), "sequence": (1, 32), "past": (0, 96)}


@pytest.mark.parametrize(
    "text", ["", "batch", "batch=", "batch=1:2", "batch=1:2:3:4", "batch=-1", "batch=1,batch=2", "/batch=1"]
)
def test_not_a_profile(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a profile"):
        parse_profile(text, number=0)


def test_profiles_that_the_model_does_not_take() -> None:
    program = tiny_of("unet-cross").program
    with pytest.raises(UnknownNameError, match="unknown dimension in profile 'profile-0' 'heights'"):
        derive_profiles(program, [parse_profile("heights=8", number=0)])
    with pytest.raises(ConfigError, match="batch goes from 1 to 999"):
        derive_profiles(program, [parse_profile("batch=1:1:999", number=0)])
    with pytest.raises(ConfigError, match="multiples of 2"):
        derive_profiles(program, [parse_profile("height=8:9:10", number=0)])
    with pytest.raises(ConfigError, match="batch is 4:2:1"):
        parse_profile("batch=4:2:1", number=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"compute_capabilities": ("8.6", "8.6")},
        {"compute_capabilities": ("86",)},
        {"workspace_bytes": 1},
        {"optimization_level": 6},
        {"profiles": (parse_profile("batch=1", number=0),) * 2},
    ],
)
def test_bad_settings(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        BuildSettings(**changes)  # type: ignore[arg-type]


def test_a_size_that_is_a_sum_has_the_range_of_the_sum() -> None:
    part = Part(module=nn.Identity(), interface=mixed.INTERFACE)
    profile = ShapeProfile(name="any", dims={"batch": (1, 2, 4), "sequence": (1, 3, 8), "past": (0, 5, 16)})
    shapes = input_shapes(part, profile)
    assert shapes["mask"] == ((1, 1), (2, 8), (4, 24))
    assert shapes["growing"] == ((1, 0), (2, 5), (4, 16))
    assert shapes["recurrent"] == ((2, 1), (2, 2), (2, 4))
    assert shapes["length"] == ((1,), (1,), (1,))
