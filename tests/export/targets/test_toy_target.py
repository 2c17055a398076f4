"""A target and a back-end that an installed package brings go through every verb: no line of the house names them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aigc_export.cli import run
from aigc_export.recipes.recipe import export_recipe
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.cli.main import run as run_on_device
from aigc_runtime.errors import BundleError, ConfigError

TOY = Path(__file__).parents[2] / "toy_target"
ENTRIES = """[aigc_export.targets]
toy = toy_target:TARGET

[aigc_runtime.backends]
toy = toy_engine:TOY
"""


@pytest.fixture(autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The toy as a package that is installed by its path."""
    folder = tmp_path_factory.mktemp("site")
    info = folder / "toy_target-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-target\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.syspath_prepend(str(TOY))
    yield folder
    for name in ("toy_target", "toy_engine"):
        sys.modules.pop(name, None)


@pytest.fixture
def exported(checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Path]:
    """The tiny GAN in fp32 and int8."""
    found = {}
    for precision in ("fp32", "int8"):
        found[precision] = tmp_path / precision
        assert run([*common(checkpoints, "export", precision), "-o", str(found[precision])]) == 0
    capsys.readouterr()
    return found


def common(checkpoints: Path, verb: str, precision: str) -> list[str]:
    words = [verb, "gan", "--target", "toy", "--precision", precision, "--checkpoint", str(checkpoints / "gan")]
    words += ["--threads", "1"]
    words += ["--calibration-samples", "16"] if precision != "fp32" else []
    return words + (["--quality-samples", "0"] if verb == "export" and precision != "auto" else [])


@pytest.mark.slow
def test_a_bundle_of_the_toy_goes_through_every_verb(
    exported: dict[str, Path], checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for precision, folder in exported.items():
        manifest = Bundle.open(folder).manifest
        assert (manifest.target, manifest.engine.kind, manifest.precision) == ("toy", "toy", precision)
        assert ("QuantizeLinear" in manifest.engine.build.operators) == (precision == "int8")
        for words in (["verify"], ["info"], ["doctor"], ["bench", "--runs", "2"]):
            assert run_on_device([words[0], str(folder), *words[1:]]) == 0, words
        picture = tmp_path / f"{precision}.png"
        assert run_on_device(["generate", str(folder), "--seed", "1", "--output", str(picture)]) == 0
        assert picture.stat().st_size
        assert run(["verify", str(folder), "--quality-samples", "0"]) == 0
        assert run(["inspect", str(folder)]) == 0
        assert run(["check", str(folder), "--device", "orin-nano"]) == 0
    first, second = (str(folder) for folder in exported.values())
    capsys.readouterr()
    assert run(["compare", first, second, "--quality-samples", "0", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert 20 < told["picture"]["value"] < 200, "8 bits were really used"
    ranges = tmp_path / "ranges.npz"
    assert run([*common(checkpoints, "calibrate", "int8"), "-o", str(ranges)]) == 0
    again = ["export", "gan", "--target", "toy", "--precision", "int8", "--checkpoint", str(checkpoints / "gan")]
    again += ["--calibration", str(ranges), "--quality-samples", "0", "-o", str(tmp_path / "again")]
    assert run(again) == 0
    assert (tmp_path / "again" / "model.toy").read_bytes() == (exported["int8"] / "model.toy").read_bytes()


@pytest.mark.slow
def test_a_search_times_the_toy(checkpoints: Path, tmp_path: Path) -> None:
    output = tmp_path / "auto"
    words = [
        *common(checkpoints, "export", "auto"),
        "--quality-samples",
        "4",
        "--budget",
        "psnr>=30",
        "-o",
        str(output),
    ]
    assert run(words) == 0
    manifest = Bundle.open(output).manifest
    assert manifest.engine.kind == "toy"
    assert manifest.precision in {"fp32", "int8", "mixed"}


def test_the_tables_know_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["targets"]["toy"]["precisions"] == ["fp32", "int8", "auto"]
    assert run(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["targets"]["toy"] == {"builds": True, "summary": "numpy is all it needs"}


def test_its_settings_are_its_own() -> None:
    assert export_recipe("gan", target="toy", build={"greeting": "hello"}).build.greeting == "hello"
    with pytest.raises(ConfigError, match="target 'toy' has no setting tf32"):
        export_recipe("gan", target="toy", build={"tf32": True})
    assert run(["export", "gan", "--target", "toy", "--tf32", "-o", "nowhere"]) == 2


def test_its_manifest_is_read_strictly(exported: dict[str, Path]) -> None:
    path = exported["fp32"] / "manifest.json"
    value: dict[str, Any] = json.loads(path.read_bytes())
    value["engines"]["model"]["build"]["color"] = "red"
    path.write_text(json.dumps(value))
    with pytest.raises(BundleError, match=r"engines\.model: build\.color is not a known field"):
        Bundle.open(exported["fp32"])


def test_a_bundle_of_a_kind_that_nobody_has_is_refused(
    exported: dict[str, Path], installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(installed)])
    with pytest.raises(BundleError, match="unknown engine 'toy'"):
        Bundle.open(exported["fp32"])


def test_nothing_of_it_is_imported_before_it_is_named(installed: Path) -> None:
    code = "import sys, aigc_runtime, aigc_runtime.opening, aigc_export.targets.table, aigc_runtime.cli.main"
    code += "; print(sorted({'toy_target', 'toy_engine'} & set(sys.modules)))"
    program = f"import sys; sys.path[:0] = {[str(installed), str(TOY)]!r}; {code}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
