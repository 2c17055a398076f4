"""What a manifest says about a compiled engine: its fields, its profiles, and how capabilities are written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aigc_runtime.bundle.manifest_file import dump_manifest, parse_manifest
from aigc_runtime.core.shape_profiles import ShapeProfile, choose_profile
from aigc_runtime.device.capability import capability_number, read_capability
from aigc_runtime.errors import BundleError, ConfigError, FeedError

from ..compiled import BUILD, CLASSIC, manifest_of

# The manifest


def test_a_compiled_engine_in_the_manifest(toy_bundles: Path) -> None:
    manifest = manifest_of(toy_bundles)
    data = dump_manifest(manifest)
    assert parse_manifest(data) == manifest
    assert dump_manifest(parse_manifest(data)) == data
    for name in json.loads(data)["engines"]["model"]["build"]:
        changed = json.loads(data)
        del changed["engines"]["model"]["build"][name]
        with pytest.raises(BundleError, match=f"{name} is missing"):
            parse_manifest(json.dumps(changed).encode())


def test_the_model_that_an_engine_was_built_on_in_the_manifest(toy_bundles: Path) -> None:
    """Null where an engine is for every model; the field is there all the same."""
    manifest = manifest_of(toy_bundles, CLASSIC)
    data = dump_manifest(manifest)
    assert parse_manifest(data) == manifest
    value = json.loads(data)
    assert value["engines"]["model"]["build"]["gpu"] == "NVIDIA A100-SXM4-40GB"
    assert value["engines"]["model"]["proof"] == {"parity": "graph", "proven_on": []}
    assert json.loads(dump_manifest(manifest_of(toy_bundles)))["engines"]["model"]["build"]["gpu"] is None
    del value["engines"]["model"]["build"]["gpu"]
    with pytest.raises(BundleError, match=r"engines\.model: build\.gpu is missing"):
        parse_manifest(json.dumps(value).encode())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpu": "some GPU"}, "a tensorrt-rtx engine names the GPU 'some GPU'"),
        ({"flavor": "tensorrt", "gpu": ""}, "gpu is ''"),
        ({"flavor": "tensorrt", "gpu": "a\x1b"}, "gpu is 'a"),
        ({"compute_capabilities": ()}, "names no compute capability"),
        ({"compute_capabilities": ("86",)}, "'86' is not a compute capability"),
        ({"profiles": ()}, "no profile of shapes"),
        ({"work": {"int7": 1.0}}, "counted in 'int7'"),
        ({"work": {"int8": 0.5}}, "shares of one whole"),
        ({"work": {"int8": float("nan")}}, "shares of one whole"),
        ({"work": {}}, "shares of one whole"),
        ({"device_memory_bytes": -1}, "device_memory_bytes is -1"),
    ],
)
def test_builds_that_say_nothing_or_nonsense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(BUILD, **changes)


# Profiles


def test_the_narrowest_profile_is_chosen() -> None:
    assert choose_profile(BUILD.profiles, {"batch": 1, "sequence": 40, "past": 0}) == 0
    assert choose_profile(BUILD.profiles, {"batch": 1, "sequence": 1, "past": 40}) == 1
    assert choose_profile(BUILD.profiles[::-1], {"batch": 1, "sequence": 1, "past": 40}) == 0


def test_a_shape_outside_every_profile() -> None:
    with pytest.raises(FeedError, match="no profile of the engine takes batch 9, sequence 1, past 0") as caught:
        choose_profile(BUILD.profiles, {"batch": 9, "sequence": 1, "past": 0})
    assert "prefill: batch 1 to 8, sequence 1 to 256, past 0 to 256" in caught.value.hint
    assert "--profile batch=1:9:9,sequence=1:1:1,past=0:0:0" in caught.value.hint
    with pytest.raises(ConfigError, match="batch is 2:1:4"):
        ShapeProfile(name="bad", dims={"batch": (2, 1, 4)})


def test_capabilities_sort_as_numbers() -> None:
    assert capability_number("12.0") > capability_number("9.0") > capability_number("8.9")
    for text in ("", "8", "8.", "8.66", "sm_86", "0.1", "8.6\n"):
        with pytest.raises(ConfigError, match="is not a compute capability"):
            capability_number(text)
    with pytest.raises(ConfigError, match=r"'87' is not a compute capability\nit reads like 8\.7"):
        capability_number("87")


def test_capabilities_as_people_type_them() -> None:
    for text in ("8.7", "87", "sm87", "sm_87", "SM_87", "sm_8.7"):
        assert read_capability(text) == "8.7"
    assert [read_capability(text) for text in ("90", "100", "sm_120")] == ["9.0", "10.0", "12.0"]
    for text in ("", "8", "orin", "sm_", "0.1", "87\n", "8.77", "sm_90a", "1000"):
        assert read_capability(text) == text
