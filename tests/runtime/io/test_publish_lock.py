"""Who may write a destination, and who may clear what lies beside it: names that parse in one way, and locks."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("fcntl", reason="a system without such locks")

from aigc_runtime.errors import OutputError
from aigc_runtime.io import publish, publish_lock
from aigc_runtime.io.publish import atomic_directory, atomic_file, atomic_write_bytes

DEAD_PID = 2**22 + 1  # above Linux' largest


def fill(target: Path, text: str) -> None:
    with atomic_directory(target, marker="mark") as staging:
        (staging / "mark").write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))  # noqa: PTH208 - hidden files count


@pytest.fixture(params=["exchange", "rename"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the system call that exchanges two directories, and without it."""
    if request.param == "rename":
        monkeypatch.setattr(publish, "_exchange", lambda a, b: False)
    return str(request.param)


NEIGHBORS = ("lm", "lm-2026", "lm-2026-11-26", "lm-", f"lm-{DEAD_PID}-x", "m", "staging-lm")


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", NEIGHBORS)
def test_nothing_of_a_neighbor_is_touched_while_it_is_written(name: str, tmp_path: Path) -> None:
    """The year in a name was once read as the number of a dead process."""
    for other in NEIGHBORS:
        fill(tmp_path / other, f"old {other}")
    with atomic_directory(tmp_path / name, marker="mark") as staging:
        (staging / "mark").write_text("new")
        for other in NEIGHBORS:
            if other != name:
                fill(tmp_path / other, f"new {other}")
    expected = {other: "new" if other == name else f"new {other}" for other in NEIGHBORS}
    assert {other: (tmp_path / other / "mark").read_text() for other in NEIGHBORS} == expected
    assert names(tmp_path) == sorted(NEIGHBORS)


HOLD = "import fcntl,os,sys\nf=os.open(sys.argv[1],66,438)\nfcntl.flock(f,2)\nprint(flush=True)\nsys.stdin.read()"


@pytest.mark.parametrize("inside", [[], ["unshare", "--pid", "--fork"]], ids=["beside", "in another pid namespace"])
def test_a_lock_that_another_process_holds_is_waited_for(
    inside: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a namespace of its own the other process may have any number, that of a dead process of ours, too."""
    if inside and (
        shutil.which(inside[0]) is None
        or subprocess.run([*inside, "true"], capture_output=True, check=False).returncode != 0
    ):
        pytest.skip("no namespaces can be made here")
    monkeypatch.setattr(publish_lock, "LOCK_TIMEOUT_S", 0.2)
    (tmp_path / ".aigc-staging-out").mkdir()
    command = [*inside, sys.executable, "-c", HOLD, str(tmp_path / ".aigc-lock-out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(OutputError, match=r"another process has been writing it for 0 seconds\nwait until it is"):
            fill(tmp_path / "out", "x")
        assert names(tmp_path) == [".aigc-lock-out", ".aigc-staging-out"]  # its work is left alone
        other.communicate()
    fill(tmp_path / "out", "x")
    assert names(tmp_path) == ["out"]


def test_threads_of_one_process_take_turns(tmp_path: Path) -> None:
    inside: list[int] = []

    def write(number: int) -> None:
        with atomic_directory(tmp_path / "out", marker="mark") as staging:
            inside.append(number)
            (staging / "mark").write_text(str(number))
            time.sleep(0.002)
            assert inside[-1] == number

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    assert sorted(inside) == list(range(40))
    assert (tmp_path / "out" / "mark").read_text() == str(inside[-1])
    assert names(tmp_path) == ["out"]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_nobody_clears_what_may_be_somebody_elses(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)
    (tmp_path / ".aigc-staging-out").mkdir()
    (tmp_path / ".aigc-unlocked-0").mkdir()
    fill(tmp_path / "out", "one")
    fill(tmp_path / "out", "two")
    atomic_write_bytes(tmp_path / "file", b"three")
    assert (tmp_path / "out" / "mark").read_text() == "two"
    assert (tmp_path / "file").read_bytes() == b"three"
    assert names(tmp_path) == [".aigc-staging-out", ".aigc-unlocked-0", "file", "out"]


def test_what_a_killed_writer_of_a_file_left_is_written_over(tmp_path: Path) -> None:
    (tmp_path / ".aigc-file-out").write_bytes(b"half of something long")
    atomic_write_bytes(tmp_path / "out", b"whole")
    assert (tmp_path / "out").read_bytes() == b"whole"
    assert names(tmp_path) == ["out"]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with atomic_file(target) as first:
        first.write(b"fir")
        with atomic_file(target) as second:
            second.write(b"second")
        assert target.read_bytes() == b"second"
        first.write(b"st")
    assert target.read_bytes() == b"first"
    assert names(tmp_path) == ["out"]


def test_a_temporary_file_that_disappears_is_an_error(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_file(tmp_path / "out") as file:
            file.write(b"x")
            (tmp_path / ".aigc-file-out").unlink()

    with pytest.raises(OutputError, match="was removed or replaced meanwhile"):
        write()
    assert names(tmp_path) == []


def test_the_temporary_name_may_lead_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"other")
    (tmp_path / ".aigc-file-out").symlink_to(tmp_path / "other")
    atomic_write_bytes(tmp_path / "out", b"new")
    (tmp_path / ".aigc-file-out").unlink()
    os.link(tmp_path / "other", tmp_path / ".aigc-file-out")
    atomic_write_bytes(tmp_path / "out", b"newer")
    assert (tmp_path / "out").read_bytes() == b"newer"
    assert (tmp_path / "other").read_bytes() == b"other"
