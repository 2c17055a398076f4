"""A bundle of three engines opens, verifies, generates and is timed on a device."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.bundle.manifest_file import parse_manifest
from aigc_runtime.cli.main import run
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import BundleError
from aigc_runtime.opening import open_pipeline, open_program
from aigc_runtime.pipelines import KINDS, kind_of
from aigc_runtime.proof.verify import verify_bundle

from .. import tensor_toys as toys


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.write(tmp_path_factory.mktemp("tensors"))


def save(folder: Path) -> list[str]:
    """Write the inputs as files; returns the options that name them."""
    options = []
    for name, array in toys.INPUTS.items():
        np.save(folder / f"{name}.npy", array)
        options += ["--input", f"{name}={folder / f'{name}.npy'}"]
    return options


def test_it_opens_and_generates(bundle: Path) -> None:
    with open_pipeline(bundle, threads=1) as pipeline:
        assert kind_of(pipeline.settings) is KINDS["tensors"]
        results = pipeline.generate(toys.INPUTS)
    for name, array in toys.expected(toys.INPUTS).items():
        np.testing.assert_allclose(results[name], array, rtol=1e-6)


def test_it_is_proven_on_every_engine_and_output(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    with open_program(opened, threads=1) as program:
        report = verify_bundle(opened, program)
    assert report.passed, report.failures
    assert {check.engine for check in report.tensors} == {"encoder", "loop", "decoder"}
    assert (report.generation.metric, report.generation.limit) == ("output_sqnr_db", 80.0)
    with toys.program() as program:
        program.session("loop")._function = lambda v: {  # type: ignore[attr-defined]
            **toys.loop(v),
            "gap": toys.loop(v)["gap"] * np.float32(1.001),
        }
        report = verify_bundle(opened, program)
    assert not report.generation.passed
    assert "output_sqnr_db is 60, at least 80 is needed" in report.generation.reasons


@pytest.mark.parametrize(
    ("actual", "value"),
    [
        ({"a": np.ones(4), "b": np.array([3.0, 4.0])}, 400.0),
        ({"a": np.ones(4), "b": np.array([3.0, 4.5])}, 20.0),  # 10 log10(25 / 0.25)
        ({"a": np.ones(4) * 1.1, "b": np.array([3.0, 4.5])}, 20.0),
        ({"a": np.ones(4) * 2, "b": np.array([3.0, 4.5])}, 0.0),
        ({"a": np.ones(3), "b": np.array([3.0, 4.0])}, -400.0),
        ({"a": np.ones(4)}, -400.0),
        ({"a": np.array([1, 1, 1, np.nan]), "b": np.array([3.0, 4.0])}, -400.0),
    ],
)
def test_the_worst_output_counts(actual: dict[str, Array], value: float) -> None:
    reference = {"a": np.ones(4), "b": np.array([3.0, 4.0])}
    assert KINDS["tensors"].metric.measure(reference, actual) == pytest.approx(value)


def test_the_command_line_without_torch(bundle: Path, tmp_path: Path) -> None:
    """Every verb, in a process that may import no torch and no onnx."""
    inputs = save(tmp_path)
    output = tmp_path / "x.npz"
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('torch', 'onnx', 'click')))\n"
        "from aigc_runtime.cli.main import run\n"
        "b, out, *inputs = sys.argv[1:]\n"
        "for line in (['info', b], ['verify', b], ['bench', b, '--runs', '2'], ['doctor', b],\n"
        "             ['generate', b, *inputs, '-o', out]):\n"
        "    more = [] if line[0] in ('info', 'doctor') else ['--threads', '1']\n"
        "    assert run([*line, *more]) == 0, line\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle), str(output), *inputs], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "toy_tensors: tensors, ort-cpu, fp32" in done.stdout
    assert "pass  case step 1 loop.code_next: " in done.stdout
    assert "generation: output_sqnr_db" in done.stdout
    assert "ms a run" in done.stdout
    assert f"wrote {output}: gap float32 [2, 2], picture float32 [2, 2], label int64 [2]\n" in done.stdout
    with np.load(output, allow_pickle=False) as found:
        for name, array in toys.expected(toys.INPUTS).items():
            np.testing.assert_allclose(found[name], array, rtol=1e-6)


def test_the_document_and_equal_bytes(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.npz", "b.npz"):
        assert run(["generate", str(bundle), *save(tmp_path), "-o", str(tmp_path / name), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
    assert told["schema"] == "aigc-run-generate-tensors/1"
    assert told["tensors"]["label"] == {"dtype": "int64", "shape": [2]}
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "tensors need a file\n  give -o FILE.npz"),
        (["-o", "x.png"], "cannot write tensors to 'x.png'"),
        (["-o", "x.npz"], "input 'image' is missing; input 'shift' is missing\n  this pipeline takes 'image' float32"),
        (["-o", "x.npz", "--input", "image"], "--input is 'image'\n  give NAME=FILE.npy"),
        (["-o", "x.npz", "--input", "imag=x.npy"], "unknown input 'imag'\n  valid: image, shift. Did you mean 'image'"),
        (["-o", "x.npz", "--input", "image=none.npy"], "no such file: 'none.npy'"),
        (["-o", "x.npz", "--input", "image=text.npy"], "'text.npy' is not a .npy file"),
        (["-o", "x.npz", "--input", "image=image.npy", "--input", "image=image.npy"], "--input image was given twice"),
        (["-o", "x.npz", "--input", "image=wide.npy"], "'wide.npy' has element type float64"),
        (["-o", "x.npz", "--input", "image=half.npy", "--input", "shift=shift.npy"], "input 'image' has dtype "),
        (["-o", "x.npz", "--seed", "1"], "--seed means nothing to a tensors bundle\n  it takes --input, --output"),
        (["-o", "x.npz", "--prompt", "a"], "--prompt means nothing to a tensors bundle"),
    ],
)
def test_bad_requests_are_refused_before_the_engines_are_loaded(
    arguments: list[str],
    message: str,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("aigc_runtime.cli.generate.open_pipeline", lambda *_, **__: pytest.fail("it was loaded"))
    save(tmp_path)
    np.save("wide.npy", toys.INPUTS["image"].astype(np.float64))
    np.save("half.npy", toys.INPUTS["image"].astype(np.float16))
    Path("text.npy").write_text("hello")
    assert run(["generate", str(bundle), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not Path("x.npz").exists()


BAD: list[tuple[Any, str]] = [
    (lambda m: m["pipeline"]["stages"][1].update(repeat=0), "repeat is 0"),
    (lambda m: m["pipeline"]["stages"][1].update(feedback={}), "stage 'loop' would do the same 3 times"),
    (lambda m: m["pipeline"]["stages"].pop(), "a tensors pipeline with engines for decoder, encoder, loop"),
    (lambda m: m["pipeline"]["stages"].reverse(), "does not fit|a name that is taken|first value or the last"),
    (lambda m: m["pipeline"]["stages"][0].update(role="\x1b[2J"), r"a stage has the role '\\x1b\[2J'\nlower-case let"),
    (lambda m: m["tolerances"]["tensor"].update(min_sqnr_db=None), r"tolerances\.min_sqnr_db is null, and output_sqnr"),
    (lambda m: m["pipeline"]["stages"][0].update(zz=1), r"\$\.pipeline\.stages\[0\]\.zz is not a known field"),
    (
        lambda m: m["pipeline"]["engines"].update(loop="none"),
        "engines has no 'none', which the pipeline drives as 'loop",
    ),
    (lambda m: generation(m)["request"].update(image=[1]), r"request\.image is in the manifest"),
    (lambda m: generation(m)["request"].update(seed=1), "the reference's request has 'seed'"),
    (lambda m: generation(m)["arrays"].pop("shift"), "the reference's request has no 'shift'"),
    (lambda m: generation(m)["arrays"].update(code="encoder.onnx"), "the reference's request has 'code'"),
    (lambda m: generation(m)["outputs"].pop("gap"), r"outputs names \['label', 'picture'\]\nthe request gives \['gap'"),
]


def generation(m: Any) -> Any:
    return m["reference"]["generation"]


@pytest.mark.parametrize(("edit", "message"), BAD)
def test_manifests_that_contradict_themselves(edit: Any, message: str, bundle: Path) -> None:
    value = json.loads((bundle / "manifest.json").read_bytes())
    parse_manifest(json.dumps(value).encode())
    edit(value)
    with pytest.raises(BundleError, match=message):
        parse_manifest(json.dumps(value).encode())


def test_a_reference_of_another_dtype_is_refused(bundle: Path, tmp_path: Path) -> None:
    made, files = toys.manifest()
    files["ref.generation.out.label.npy"] = files["ref.generation.out.gap.npy"]
    from aigc_runtime.bundle.bundle import write_bundle

    write_bundle(tmp_path / "b", made, files)
    opened = Bundle.open(tmp_path / "b")
    with pytest.raises(BundleError, match=r"the reference's 'label' is float32 \[2, 2\]\nmust be int64 \[any\]"):
        verify_bundle(opened, toys.program())
    shutil.rmtree(tmp_path / "b")
