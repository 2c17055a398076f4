"""The plugin for pytest, by the example of docs/ci.md, in processes that are set up as a user's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aigc_runtime.bundle.bundle import write_bundle

from . import toys

ROOT = Path(__file__).parents[2]
PLUGIN = "aigc_runtime.pytest_plugin"
NAME = "toy_lm_growing"


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """A folder of its own with the page's file of tests."""
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "ci.md").read_text(), re.DOTALL)
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    (folder / "test_bundle.py").write_text(block)
    return folder


def run_pytest(folder: Path, *arguments: str, autoload: bool = False, path: str = "") -> tuple[int, str]:
    """Exit code and output; warnings are errors, also those of pytest's own start."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "AIGC_"))}
    paths = [path, str(ROOT / "runtime"), os.environ.get("PYTHONPATH")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    if not autoload:
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    command = [sys.executable, "-B", "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", "-ra", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    output = done.stdout + done.stderr
    assert "INTERNALERROR" not in output
    return done.returncode, output


def run_example(folder: Path, *arguments: str) -> tuple[int, str]:
    return run_pytest(folder, "-p", PLUGIN, *arguments)


def outcomes(output: str) -> str:
    """The last line, without the time."""
    return output.strip().splitlines()[-1].strip("= ").split(" in ")[0]


def test_the_example_passes_on_a_sound_bundle(example: Path, toy_bundles: Path) -> None:
    relative = os.path.relpath(toy_bundles / NAME, example)
    code, output = run_example(example, "--aigc-bundle", relative, "--aigc-threads", "1")
    assert (code, outcomes(output)) == (0, "3 passed"), output
    assert f"aigc-bundle: {relative!r}: {NAME}, ort-cpu, fp32, manifest sha256 " in output


def test_the_example_fails_where_the_engine_misses_parity(example: Path, tmp_path: Path) -> None:
    manifest, files = toys.toy_manifest(NAME)
    graph = (toys.DATA / f"{NAME}.onnx").read_bytes()
    modulus, other = (np.array(value, dtype="<f4").tobytes() for value in (256, 11))
    assert graph.count(modulus) == 1
    write_bundle(tmp_path / "wrong", manifest, {**files, "model.onnx": graph.replace(modulus, other)})
    code, output = run_example(example, "--aigc-bundle", str(tmp_path / "wrong"))
    assert (code, outcomes(output)) == (1, "2 failed, 1 passed"), output
    assert "case 'case' step 0 output 'logits': max_over_rms is" in output
    assert "FAILED test_bundle.py::test_text[" in output


def test_the_example_is_skipped_without_a_bundle(example: Path) -> None:
    code, output = run_example(example)
    assert (code, outcomes(output)) == (0, "3 skipped"), output
    assert "no bundle is given: pytest --aigc-bundle PATH" in output


def cut_engine(folder: Path) -> str:
    toys.write_toy_bundle(folder, NAME)
    engine = folder / NAME / "model.onnx"
    engine.write_bytes(engine.read_bytes()[:-1])
    return str(folder / NAME)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            cut_engine,
            r"--aigc-bundle .*toy_lm_growing: 'model.onnx' has [\d,]+ bytes, expected .*\nit was cut .*copy it",
        ),
        (lambda folder: str(folder / "none"), r"--aigc-bundle .*none: .*none' is not a folder|not found"),
        (lambda _: "", "--aigc-bundle: the path is empty\ngive the folder of a bundle"),
    ],
    ids=["cut", "missing", "empty"],
)
def test_a_bad_bundle_is_a_usage_error(make: object, told: str, example: Path, tmp_path: Path) -> None:
    code, output = run_example(example, "--aigc-bundle", make(tmp_path))  # type: ignore[operator]
    assert code == pytest.ExitCode.USAGE_ERROR, output
    assert output.startswith("ERROR: ")
    assert re.search(told, output), output
    assert "Traceback" not in output


def test_threads_out_of_range_are_a_usage_error(example: Path, toy_bundles: Path) -> None:
    code, output = run_example(example, "--aigc-bundle", str(toy_bundles / NAME), "--aigc-threads", "0")
    assert code == pytest.ExitCode.USAGE_ERROR
    assert output.startswith("ERROR: --aigc-threads: threads is 0\nmust be an integer from 1 to ")


def test_every_bundle_is_proven_once(example: Path, toy_bundles: Path) -> None:
    """By a file of tests that counts, leaves its folder, and asks pytest by name."""
    (example / "test_bundle.py").write_text("""
import unittest
import pytest
import aigc_runtime.proof.verify as verify

CALLS, verify_bundle = [], verify.verify_bundle

@pytest.fixture(scope="session", autouse=True)
def count(tmp_path_factory):
    verify.verify_bundle = lambda bundle, session: CALLS.append(bundle.path) or verify_bundle(bundle, session)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        yield
    assert sorted(p.name for p in CALLS) == ["toy_gan", "toy_unet"]

@pytest.fixture(scope="session", params=[1, 2])
def other(request):
    return request.param

@pytest.mark.parametrize("number", [1, 2])
def test_parity(number, other, aigc_parity, aigc_bundle, aigc_pipeline):
    assert aigc_parity.passed
    assert aigc_parity.name == aigc_bundle.manifest.name
    assert aigc_pipeline.generate([1]).shape[0] == 1

def test_dynamic(request):
    request.getfixturevalue("aigc_bundle")

@pytest.mark.usefixtures("aigc_bundle")
class TestOld(unittest.TestCase):
    def test_old(self):
        pass
""")
    given = [os.path.relpath(toy_bundles / name, example) for name in ("toy_gan", "toy_unet")]
    arguments = ["--aigc-threads", "1", *(f"--aigc-bundle={path}" for path in (*given, given[0]))]
    code, output = run_example(example, *arguments)
    assert (code, outcomes(output)) == (1, "1 failed, 8 passed, 1 error"), output
    # The summary repeats reasons whole where pytest knows that it runs in CI, and their first lines elsewhere.
    errors = output.partition("short test summary info")[0]
    assert errors.count("2 bundles are given\nname aigc_bundle among the arguments of a test function") == 2


def test_what_goes_wrong_later_is_told_without_a_traceback(example: Path, tmp_path: Path) -> None:
    """A package that is missing; a bundle that goes while the tests run."""
    bundle = toys.write_toy_bundle(tmp_path, NAME)
    (example / "conftest.py").write_text("import sys\nsys.modules['onnxruntime'] = None\n")
    code, output = run_example(example, "--aigc-bundle", str(bundle))
    assert (code, outcomes(output)) == (1, "1 passed, 2 errors"), output
    assert "pip install" in output
    assert "Traceback" not in output
    (example / "conftest.py").write_text(
        f"import os\ndef pytest_collection_finish(session):\n    os.remove({str(bundle / 'ref.generation.npy')!r})\n"
    )
    code, output = run_example(example, "--aigc-bundle", str(bundle), "--aigc-threads", "1")
    assert (code, outcomes(output)) == (1, "2 passed, 1 error"), output
    assert f"bundle {str(bundle)!r}: " in output
    assert "ref.generation.npy" in output
    assert "Traceback" not in output


def test_without_numpy_pytest_runs_and_says_what_is_missing(example: Path, toy_bundles: Path) -> None:
    (example / "hidden.py").write_text("import sys\nsys.modules['numpy'] = sys.modules['onnxruntime'] = None\n")
    arguments = ["-p", "hidden", "-p", PLUGIN]
    code, output = run_pytest(example, *arguments, path=str(example))
    assert (code, outcomes(output)) == (0, "3 skipped"), output
    code, output = run_pytest(example, *arguments, "--aigc-bundle", str(toy_bundles / NAME), path=str(example))
    assert code == pytest.ExitCode.USAGE_ERROR
    assert re.match(r"ERROR: --aigc-bundle: .*numpy.*\ninstall it: pip install 'aigc-runtime\[ort\]'", output), output


@pytest.fixture
def installed(tmp_path: Path) -> str:
    """A folder for `sys.path` with a distribution that has the entry point of pyproject.toml."""
    text = (ROOT / "runtime" / "pyproject.toml").read_text()
    (line,) = re.findall(r"^\[project\.entry-points\.pytest11\]\n(.*)$", text, re.MULTILINE)
    metadata = tmp_path / "site" / "installed-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: installed\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[pytest11]\n" + line.replace('"', "") + "\n")
    (metadata / "RECORD").write_text("aigc_runtime/__init__.py,,\naigc_runtime/pytest_plugin.py,,\n")
    return str(tmp_path / "site")


def test_the_plugin_is_loaded_once_however_often_it_is_named(example: Path, installed: str, toy_bundles: Path) -> None:
    (example / "conftest.py").write_text(f"pytest_plugins = [{PLUGIN!r}]\n")
    given = ["--aigc-bundle", str(toy_bundles / NAME), "--aigc-threads=1"]
    code, output = run_pytest(example, "-p", PLUGIN, *given, autoload=True, path=installed)
    assert (code, outcomes(output)) == (0, "3 passed"), output


def test_the_entry_point_alone_loads_the_plugin_and_nothing_else(example: Path, installed: str) -> None:
    (example / "test_bundle.py").write_text("""
import sys

def test_nothing_else_is_loaded():
    loaded = {name for name in sys.modules if name.startswith("aigc_runtime")}
    assert loaded == {"aigc_runtime", "aigc_runtime._version", "aigc_runtime.pytest_plugin"}
    assert not {"numpy", "onnxruntime", "torch"} & set(sys.modules)
""")
    code, output = run_pytest(example, autoload=True, path=installed)
    assert (code, outcomes(output)) == (0, "1 passed"), output
