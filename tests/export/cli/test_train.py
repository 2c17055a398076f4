"""`aigc-export train` as a user runs it: what it says, and what a signal leaves."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from aigc_export.cli import run
from aigc_export.cli.train_progress import TrainProgress
from aigc_export.cli.train_stop import SignalStop
from aigc_models.evaluation.metrics import class_accuracy
from aigc_models.training import families
from aigc_models.training.state import unfinished
from aigc_models.weights.checkpoint import save_checkpoint
from aigc_runtime.system.interrupts import handled_signals

SMALL = {
    "classifier": ["--batch-size", "8", "--steps", "600"],  # which take longer than the signal waits for
    "lm": ["--batch-size", "2", "--steps", "5"],
    "unet": ["--batch-size", "2", "--steps", "40", "--size", "8"],
    "gan": ["--batch-size", "2", "--steps", "60", "--size", "8"],
    "stylegan2": ["--batch-size", "2", "--steps", "40", "--size", "8", "--width", "8"],
}
WEIGHTS = ("model.safetensors", "config.json")


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """A shell that runs the tests in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As many threads as the subprocess has: sums are in the same order."""
    monkeypatch.setattr(families, "SAMPLES", 2)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def digests(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in WEIGHTS}


def interrupt(arguments: list[str], number: signal.Signals, delay: float, until: str = "step 1/") -> tuple[int, str]:
    """Run the command line as a process of its own and send it a signal some time after a line."""
    code = "import sys; from aigc_export.cli import main; main(sys.argv[1:])"
    lines = []
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments, "--json"],  # all is said on standard error
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: [signal.signal(n, signal.SIG_DFL) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if line.startswith(until):
                time.sleep(delay)
                process.send_signal(number)
                break
        lines += process.stderr.readlines()
        return process.wait(timeout=120), "".join(lines)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("classifier", signal.SIGTERM),
        ("unet", signal.SIGINT),
        ("gan", signal.SIGTERM),
        ("stylegan2", signal.SIGTERM),
        ("lm", signal.SIGINT),
    ],
)
def test_a_real_signal_loses_nothing(tmp_path: Path, name: str, number: signal.Signals) -> None:
    arguments = ["train", name, *SMALL[name], "-o"]
    delay = random.uniform(0, 0.2)
    code, told = interrupt([*arguments, str(tmp_path / "run")], number, delay)
    assert code == 128 + number, (told, delay)
    left = unfinished(tmp_path / "run")
    assert left is not None
    step, steps = left
    assert f"{number.name}: ending after this step and saving; once more ends at once" in told
    assert f"error: interrupted at step {step} of {steps}: the state is in '{tmp_path / 'run'}'" in told
    assert "go on with the same command and --resume" in told
    assert 1 <= step <= steps == int(SMALL[name][3])
    assert run([*arguments, str(tmp_path / "whole")]) == 0
    assert digests(tmp_path / "run") != digests(tmp_path / "whole")
    assert run([*arguments, str(tmp_path / "run"), "--resume"]) == 0
    assert digests(tmp_path / "run") == digests(tmp_path / "whole"), (step, delay)
    assert unfinished(tmp_path / "run") is None
    rows = [line.split(",")[0] for line in (tmp_path / "run" / "curve.csv").read_text().splitlines()]
    assert rows == ["step", *map(str, range(1, steps + 1))]


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_killed_run_goes_on_from_its_last_save_bit_for_bit(tmp_path: Path) -> None:
    # More steps than any machine takes in the time until it is killed.
    arguments = ["train", "classifier", "--batch-size", "8", "--steps", "200", "--save-every", "3", "-o"]
    kills = 0
    while kills < 2:
        state = unfinished(tmp_path / "run")  # none yet, where the kill came before the first save
        program = [*arguments, str(tmp_path / "run"), *(["--resume"] if state else [])]
        until = f"step {state[0] + 1 if state else 1}/"
        code, _ = interrupt(program, signal.SIGKILL, random.uniform(0, 0.3), until=until)
        assert code == -signal.SIGKILL
        kills += unfinished(tmp_path / "run") is not None
    left = unfinished(tmp_path / "run")
    assert left is not None
    step, steps = left
    assert 0 < step < steps
    assert run([*arguments, str(tmp_path / "whole")]) == 0
    assert run([*arguments, str(tmp_path / "run"), "--resume"]) == 0
    assert digests(tmp_path / "run") == digests(tmp_path / "whole")
    assert not [
        p.name for p in tmp_path.iterdir() if p.is_dir() and p.name not in ("run", "whole")
    ]  # nothing is left over


def test_signals_act_at_once_outside_of_the_steps_and_the_second_time(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    for number in (signal.SIGTERM, signal.SIGINT):
        with pytest.raises(KeyboardInterrupt) as caught, SignalStop(tmp_path):
            signal.raise_signal(number)
        assert caught.value.__notes__ == ["no state was saved"]
    with SignalStop(tmp_path) as stop, stop.listening():
        signal.raise_signal(signal.SIGINT)
        assert stop.signum == signal.SIGINT
        signal.raise_signal(signal.SIGHUP)  # at once: of the same closed terminal, or of two quick fingers
        monkeypatch.setattr("aigc_export.cli.train_stop.SAME_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert "SIGINT: ending after this step and saving; once more ends at once" in capfd.readouterr().err
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.slow
def test_a_signal_before_the_first_step_has_the_code_of_every_verb(tmp_path: Path) -> None:
    code, told = interrupt(["train", "lm", "-o", str(tmp_path / "run")], signal.SIGTERM, 0, until="6,")
    assert code == 143
    # Where the first step has begun by then, it is ended and saved: what is said is what is there.
    assert ("error: interrupted; no state was saved" in told) != (tmp_path / "run").exists()
    assert ("the state is in" in told) == (tmp_path / "run").exists()


def test_a_signal_that_a_library_dropped_ends_the_training_before_its_first_step(tmp_path: Path) -> None:
    """PyTorch is imported in parts until then; the training went on for minutes."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    try:
        with handled_signals(), SignalStop(tmp_path) as stop:
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)
            with pytest.raises(KeyboardInterrupt), stop.listening():
                pass
        with handled_signals():
            pass  # which forgets it
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with SignalStop(tmp_path) as stop, stop.listening():
            signal.raise_signal(signal.SIGTERM)
            assert stop.signum is None
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("one_thread")
def test_the_second_signal_while_saving_leaves_the_old_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from aigc_models.training import state

    saved: list[int] = []

    def interrupted_save(folder: Path, *arguments: Any, **options: Any) -> None:
        if saved:
            signal.raise_signal(signal.SIGINT)  # while it ends after its step
            signal.raise_signal(signal.SIGINT)  # and while it saves
        saved.append(1)
        save_checkpoint(folder, *arguments, **options)

    monkeypatch.setattr(state, "save_checkpoint", interrupted_save)
    monkeypatch.setattr("aigc_export.cli.train_stop.SAME_SECONDS", 0.0)
    arguments = ["train", "classifier", "--steps", "6", "--save-every", "2", "-o", str(tmp_path / "run")]
    assert run(arguments) == 130
    assert unfinished(tmp_path / "run") == (2, 6)
    assert f"the state of step 2 of 6 is in '{tmp_path / 'run'}'" in capsys.readouterr().err
    monkeypatch.setattr(state, "save_checkpoint", save_checkpoint)
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")] == ["run"]
    assert run([*arguments, "--resume"]) == 0


@pytest.mark.usefixtures("one_thread")
def test_an_interruption_while_quality_is_measured_loses_no_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from aigc_models.training import image_families

    monkeypatch.setattr(image_families, "class_accuracy", lambda *_: signal.raise_signal(signal.SIGINT))
    arguments = ["train", "classifier", "--steps", "2", "-o", str(tmp_path / "run")]
    assert run(arguments) == 130
    assert "interrupted; the state of step 2 of 2 is in" in capsys.readouterr().err
    monkeypatch.setattr(image_families, "class_accuracy", class_accuracy)
    assert run([*arguments, "--resume"]) == 0
    assert (tmp_path / "run" / "quality.json").is_file()


@pytest.mark.usefixtures("one_thread")
def test_what_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "classifier", "--steps", "3", "-o", str(tmp_path / "run")]
    assert run(arguments) == 0
    printed = capsys.readouterr()
    first, cost, trained, quality, end = printed.out.splitlines()
    assert first == "1,797 built-in digits, 8x8 gray; enlarged to 16x16 (linear)"
    assert re.fullmatch(r"3 steps of 64 rows, a minute or less on this machine, about \d+ MiB of memory", cost)
    assert re.fullmatch(r"3 steps took \d+ s; measuring the result", trained)
    assert re.fullmatch(r"held_out_accuracy on scikit-learn's digits: 0\.\d+ \(359 samples\)", quality)
    assert end == f"wrote {tmp_path / 'run'}"
    assert re.match(r"step 1/3 loss \d\.\d+ held_out_loss \d\.\d+\n", printed.err)
    assert re.search(r"\nstep 3/3 loss .* steps/s\n$", printed.err)
    assert run([*arguments, "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["training"]["steps"] == 3
    assert "built-in digits" in printed.err


def test_a_log_has_a_line_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    from io import StringIO

    from rich.console import Console

    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    out = StringIO()
    with TrainProgress(Console(file=out, width=200), "train") as progress:
        for step in range(1, 301):
            progress(step, 300, {"loss": 1 / step} | ({"held_out_loss": 0.25} if step == 100 else {}))
            now[0] += 0.5
    lines = out.getvalue().splitlines()
    assert len(lines) == 16
    assert lines[0] == "step 1/300 loss 1"
    assert lines[1] == "step 21/300 loss 0.04762 2 steps/s 2 min left"
    assert lines[5] == "step 101/300 loss 0.009901 held_out_loss 0.25 2 steps/s 2 min left"
    assert lines[-1] == "step 300/300 loss 0.003333 held_out_loss 0.25 2 steps/s"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--save-every", "often"], "save_every is 'often'"),
        (["--sample-every", "0"], "sample_every is '0'"),
        (["--device", "tpu"], "device is 'tpu'"),
        (["--batch-size", "0"], "batch_size is 0"),
        (["--learning-rate", "-1"], "learning_rate is -1.0"),
        (["--channels", "2"], "channels is 2"),
        (["--background", "pink", "--data", "."], "background is 'pink'"),
        (["--data", "nowhere"], "no such file or folder: 'nowhere'"),
        (["--resume"], "nothing to resume in"),
    ],
)
def test_options_are_refused_by_name(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["train", "gan", "-o", "out", *options]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
