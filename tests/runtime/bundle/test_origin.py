"""What a bundle was exported from: strict when read, and as a command that a shell reads back word for word."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aigc_runtime.backends.trt.rebuild import rebuild_line
from aigc_runtime.bundle.engine_facts import engine_facts
from aigc_runtime.bundle.manifest_file import dump_manifest, parse_manifest
from aigc_runtime.bundle.origin import Origin
from aigc_runtime.errors import BundleError, ConfigError
from aigc_runtime.preflight import check_device

from ..compiled import BUILD, CLASSIC, ORIGIN, gpu, manifest_of, refused

OWN = replace(
    ORIGIN,
    shipped=False,
    checkpoint="my runs/poems; rm -rf $HOME",
    calibration_data="it's mine",
    eval_data="held out",
    options=("--dynamic-size", "--keep-float", "lm_head", "--ranges", "kl", "--seed", "3", "--timing-cache", "a b"),
)


def words(line: str) -> list[str]:
    return shlex.split(line.split(": ", 1)[1])


def test_the_command_keeps_weights_data_options_and_devices(toy_bundles: Path) -> None:
    manifest = replace(manifest_of(toy_bundles), origin=OWN)
    (fix,) = (f.fix for f in refused(check_device(manifest, gpu(compute_capability="8.9"))))
    assert words(fix) == [
        *("aigc-export", "export", manifest.name, "--target", "tensorrt-rtx"),
        *("--compute-capability", "8.6", "--compute-capability", "12.0", "--compute-capability", "8.9"),
        *("--precision", "int8", "--checkpoint", "my runs/poems; rm -rf $HOME", "--calibration-data", "it's mine"),
        *("--eval-data", "held out", "--dynamic-size", "--keep-float", "lm_head", "--ranges", "kl", "--seed", "3"),
        *("-o", "DIR"),
    ]


def test_what_only_the_old_precision_or_target_takes_is_left_out(toy_bundles: Path) -> None:
    calibrated = replace(OWN, calibration="c.npz", calibration_data=None)
    manifest = replace(manifest_of(toy_bundles), origin=calibrated)
    turing = words(rebuild_line(engine_facts(manifest, "model"), "7.5"))
    assert not {"--ranges", "--calibration", "--timing-cache", "8.6", "12.0"} & set(turing)
    assert turing[turing.index("--precision") + 1] == "fp16"
    assert {"--keep-float", "--seed", "--dynamic-size"} <= set(turing)
    classic = words(
        rebuild_line(engine_facts(replace(manifest_of(toy_bundles, CLASSIC), origin=calibrated), "model"), "9.0")
    )
    assert classic[classic.index("--timing-cache") + 1] == "a b"
    assert classic[classic.index("--calibration") + 1] == "c.npz"
    assert "--compute-capability" not in classic


def test_no_command_is_invented_for_a_model_that_cannot_be_named(toy_bundles: Path) -> None:
    manifest = manifest_of(toy_bundles)
    for origin in (None, replace(OWN, checkpoint=None)):
        line = rebuild_line(engine_facts(replace(manifest, origin=origin), "model"), "8.9")
        assert "aigc-export" not in line
        assert line == f"export {manifest.name!r} again as it was exported, with --target tensorrt-rtx for 8.9"


def test_names_of_strangers_are_quoted(toy_bundles: Path) -> None:
    manifest = replace(manifest_of(toy_bundles), name="lm; reboot", precision="int8 $(id)")
    found = words(rebuild_line(engine_facts(manifest, "model"), "8.9"))
    assert found[2] == "lm; reboot"
    assert found[found.index("--precision") + 1] == "int8 $(id)"


def test_an_origin_survives_the_manifest(toy_bundles: Path) -> None:
    manifest = replace(manifest_of(toy_bundles, BUILD), origin=OWN)
    assert parse_manifest(dump_manifest(manifest)).origin == OWN
    assert parse_manifest(dump_manifest(replace(manifest, origin=None))).origin is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_sha256": "12"}, "model_sha256 is '12'"),
        ({"config_sha256": "F" * 64}, "config_sha256 is 'FFFF"),
        ({"eval_sha256": "x"}, "eval_sha256 is 'x'"),
        ({"shipped": True}, "of a model that was shipped"),
        ({"checkpoint": ""}, "a path or option is ''"),
        ({"checkpoint": "a\nb"}, r"a path or option is 'a\\nb'"),
        ({"calibration_data": "\x1b[2J"}, "a path or option is"),
        ({"eval_data": "\udcff"}, "a path or option is"),
        ({"options": ("--output", "x")}, "options hold '--output'"),
        ({"options": ("--seed",)}, "options hold '--seed'"),
        ({"options": ("--tf32", "x")}, "options hold 'x'"),
    ],
)
def test_what_no_export_writes_is_refused(changes: dict[str, Any], message: str, toy_bundles: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(OWN, **changes)
    manifest = json.loads(dump_manifest(replace(manifest_of(toy_bundles), origin=OWN)))
    manifest["origin"].update(json.loads(json.dumps(changes)))
    # Half of a surrogate pair is refused in all of a manifest, before its fields are looked at.
    with pytest.raises(BundleError, match=f"{message}|half of a surrogate pair"):
        parse_manifest(json.dumps(manifest).encode())


def test_every_field_is_required(toy_bundles: Path) -> None:
    manifest = json.loads(dump_manifest(replace(manifest_of(toy_bundles), origin=OWN)))
    for name in Origin.__dataclass_fields__:
        origin = {k: v for k, v in manifest["origin"].items() if k != name}
        with pytest.raises(BundleError, match=rf"\$\.origin\.{name} is missing"):
            parse_manifest(json.dumps({**manifest, "origin": origin}).encode())
