"""What becomes of the output never decides what the exit code says: every verb of `aigc-run`, every broken stream."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aigc_runtime.bundle.bundle import write_bundle
from aigc_runtime.io.npy import read_npy, write_npy

from ...processes import FULL, clean, command, interrupt, run_into
from .. import toys

pytestmark = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
TEXT = ["--prompt", "ab", "--max-new-tokens", "20"]


@pytest.fixture(scope="module")
def bundles(toy_bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`good`, `text`, `wrong` (misses its limits) and `cut` (damaged)."""
    folder = tmp_path_factory.mktemp("bundles")
    shutil.copytree(toy_bundles / "toy_gan", folder / "good")
    shutil.copytree(toy_bundles / "toy_lm_growing", folder / "text")
    manifest, files = toys.toy_manifest("toy_gan")
    original = files["ref.0.out.image.npy"]
    assert isinstance(original, bytes)
    files["ref.0.out.image.npy"] = write_npy(read_npy(original) + 0.5)
    write_bundle(folder / "wrong", manifest, files)
    shutil.copytree(toy_bundles / "toy_gan", folder / "cut")
    (folder / "cut" / "model.onnx").write_bytes(b"")
    return folder


CASES = (
    (["info", "good"], 0),
    (["verify", "good", "--threads", "1"], 0),
    (["verify", "wrong", "--threads", "1"], 3),
    (["verify", "wrong", "--threads", "1", "--json"], 3),
    (["verify", "cut"], 4),
    (["bench", "good", "--runs", "1", "--threads", "1"], 0),
    (["doctor", "good"], 0),
    (["generate", "text", *TEXT], 0),
    (["generate", "good", "-o", "image.png"], 0),
    (["-h"], 0),
)
ALSO_FULL = ("verify", "generate", "-h")


@pytest.mark.parametrize(("arguments", "verdict"), CASES, ids=lambda v: " ".join(v[:2]) if isinstance(v, list) else "")
def test_the_verdict_decides(
    arguments: list[str], verdict: int, bundles: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    program = command("aigc-run", *(str(bundles / a) if (bundles / a).is_dir() else a for a in arguments))
    code, errors = run_into("gone", program)
    assert code == verdict
    assert ("BrokenPipe" in errors, "internal" in errors, "Traceback" in errors) == (False, False, False)
    assert (errors == "") is (verdict in (0, 3))
    if arguments[0] not in ALSO_FULL:
        return
    # A result that nobody could get is no success; a failure stays what it is.
    code, errors = run_into("full", program)
    assert code == (verdict or 6)
    assert ("cannot write to standard output: No space left on device" in errors) is (verdict == 0)


@pytest.mark.parametrize("sink", ["closed", "full"])
def test_a_closed_stream(sink: str, bundles: Path, tmp_path: Path) -> None:
    """The next file that is opened must not become standard output."""
    program = command("aigc-run", "generate", str(bundles / "good"), "-o", str(tmp_path / f"{sink}.png"))
    code, errors = run_into("closed", program, stderr="" if sink == "closed" else "full")
    assert code == 6
    assert errors.startswith("error: cannot write to standard output: Bad file descriptor" if sink == "closed" else "")
    assert (tmp_path / f"{sink}.png").read_bytes().startswith(b"\x89PNG")
    assert run_into("closed", command("aigc-run", "verify", str(bundles / "wrong")), stderr="closed")[0] == 3
    assert run_into("", command("aigc-run", "info", str(bundles / "good")), stderr=sink)[0] == 0


def test_text_ends_with_its_reader(bundles: Path) -> None:
    """Nobody reads on: nothing is left to do."""
    more = ["--prompt", "a", "--max-new-tokens", "31"]
    script = (
        "import sys; from aigc_runtime.cli.main import main; from aigc_runtime.pipelines.text import TextPipeline\n"
        "stream = TextPipeline.stream\n"
        "def told(*a, **k):\n"
        "    for n, piece in enumerate(stream(*a, **k)):\n"
        "        sys.stderr.write(f'{n} '); yield 'x'\n"
        "TextPipeline.stream = told\n"
        "main()"
    )
    code, errors = run_into("gone", [sys.executable, "-c", script, "generate", str(bundles / "text"), *more])
    assert (code, errors) == (0, "0 ")


@pytest.mark.parametrize(
    ("encoding", "written", "lost"),
    [("utf-8", "é".encode(), "\ufffd".encode()), ("cp1252", b"\xe9", b"?"), ("ascii", b"?", b"?")],
)
def test_what_an_encoding_lacks_is_replaced(encoding: str, written: bytes, lost: bytes, bundles: Path) -> None:
    # The sum of all bytes: é is 195 + 169 = 108 (l), then 108 * 2 = 216, 432 - 256 = 176: "l", "ذ" and so on.
    arguments = command("aigc-run", "generate", str(bundles / "text"), "--prompt", "é", "--max-new-tokens", "3")
    done = subprocess.run(arguments, capture_output=True, check=False, env=clean({"PYTHONIOENCODING": encoding}))
    third = "ذ".encode(encoding, errors="replace")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == written + b"l" + third + b"\n"


def test_the_c_locale(bundles: Path) -> None:
    """Python keeps bytes that ASCII lacks apart (PEP 383): the prompt is what the user typed."""
    where = clean({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"})
    arguments = command("aigc-run", "generate", str(bundles / "text"), "--max-new-tokens", "1")
    done = subprocess.run([*arguments, "--prompt", "é"], capture_output=True, check=False, env=where)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"?l\n", b"")
    done = subprocess.run([*map(os.fsencode, arguments), b"--prompt", b"\xff"], capture_output=True, env=where)
    assert done.returncode == 2
    assert b"is not UTF-8" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal(number: signal.Signals, code: int, bundles: Path, tmp_path: Path) -> None:
    program = command("aigc-run", "bench", str(bundles / "good"), "--runs", "1000000", "--threads", "1")
    assert interrupt(program, delay=0.7, number=number) == (code, "", "error: interrupted\n")


def test_a_signal_that_is_ignored_stays_so(bundles: Path) -> None:
    script = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); from aigc_runtime.cli.main import main; main()"
    )
    program = [sys.executable, "-c", script, "bench", str(bundles / "good"), "--runs", "2000", "--threads", "1"]
    code, out, _ = interrupt(program, delay=0.5)
    assert code == 0
    assert "one step" in out
