"""Publishing: the old one or the new one, whatever happens between."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from aigc_runtime.errors import InputError, OutputError
from aigc_runtime.io import publish
from aigc_runtime.io.publish import atomic_directory, atomic_file, atomic_write_bytes
from aigc_runtime.io.publish_checks import check_directory


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


@pytest.mark.usefixtures("way")
def test_create_and_replace(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "out"
    fill(target, "one")
    fill(target, "two")
    assert (target / "mark").read_text() == "two"
    assert names(target.parent) == ["out"]
    assert target.stat().st_mode & 0o777 == 0o755


@pytest.mark.usefixtures("way")
def test_old_files_do_not_survive_a_replacement(tmp_path: Path) -> None:
    fill(tmp_path / "out", "one")
    (tmp_path / "out" / "old").write_text("")
    fill(tmp_path / "out", "two")
    assert names(tmp_path / "out") == ["mark"]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), InputError("x")])
def test_a_failure_inside_leaves_the_old_one(error: BaseException, tmp_path: Path) -> None:
    fill(tmp_path / "out", "one")

    def publish_and_fail() -> None:
        with atomic_directory(tmp_path / "out", marker="mark") as staging:
            (staging / "mark").write_text("two")
            raise error

    with pytest.raises(type(error)):
        publish_and_fail()
    assert (tmp_path / "out" / "mark").read_text() == "one"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_failing_disk_is_an_output_error(code: int, tmp_path: Path) -> None:
    fill(tmp_path / "out", "one")

    def publish_and_fail() -> None:
        with atomic_directory(tmp_path / "out", marker="mark"):
            raise OSError(code, os.strerror(code))

    with pytest.raises(OutputError, match=r"what was there before is unchanged") as caught:
        publish_and_fail()
    assert os.strerror(code) in str(caught.value)
    assert (tmp_path / "out" / "mark").read_text() == "one"


def test_a_failing_sync_or_swap_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bool:
        raise OSError(errno.EIO, "bad sector")

    fill(tmp_path / "out", "one")
    for step in ("_sync_tree", "_swap_in"):
        with monkeypatch.context() as patch:
            patch.setattr(publish, step, fail)
            with pytest.raises(OutputError, match="bad sector"):
                fill(tmp_path / "out", "two")
        assert (tmp_path / "out" / "mark").read_text() == "one"
        assert names(tmp_path) == ["out"]


def test_without_exchange_a_failed_second_rename_puts_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "out", "one")
    monkeypatch.setattr(publish, "_exchange", lambda a, b: False)
    rename = Path.rename

    def fail_for_staging(self: Path, target: Path) -> Path:
        if ".aigc-staging-" in self.name:
            raise OSError(errno.EIO, "bad sector")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_staging)
    with pytest.raises(OutputError, match="bad sector"):
        fill(tmp_path / "out", "two")
    assert (tmp_path / "out" / "mark").read_text() == "one"
    assert names(tmp_path) == ["out"]


def test_what_dead_runs_left_is_cleared(tmp_path: Path) -> None:
    fill(tmp_path / "out", "one")
    for left in (".aigc-staging-out", ".aigc-old-out"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "half").write_text("")
    (tmp_path / ".aigc-lock-out").write_text("")  # a killed run leaves it: the lock itself went with the run
    fill(tmp_path / "out", "two")
    assert names(tmp_path) == ["out"]
    (tmp_path / ".aigc-staging-out").symlink_to(tmp_path / "out")
    (tmp_path / ".aigc-old-out").write_text("")
    fill(tmp_path / "out", "three")
    assert (tmp_path / "out" / "mark").read_text() == "three"
    assert names(tmp_path) == ["out"]


def test_names_of_our_own_are_refused(tmp_path: Path) -> None:
    for name in (".aigc-staging-out", ".aigc-lock-out", ".aigc-old-out", ".aigc-"):
        with pytest.raises(OutputError, match=r"names that begin with \.aigc- are for temporary folders"):
            fill(tmp_path / name, "x")
        with pytest.raises(OutputError, match=r"names that begin with \.aigc- are for temporary folders"):
            check_directory(tmp_path / name, marker="mark")
    assert names(tmp_path) == []


def test_a_destination_that_becomes_somebody_elses_is_not_replaced(tmp_path: Path) -> None:
    fill(tmp_path / "out", "one")

    def publish_over_photos() -> None:
        with atomic_directory(tmp_path / "out", marker="mark") as staging:
            (staging / "mark").write_text("two")
            (tmp_path / "out").rename(tmp_path / "moved")
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "cat.png").write_text("cat")

    with pytest.raises(OutputError, match="it holds files but no mark"):
        publish_over_photos()
    assert (tmp_path / "out" / "cat.png").read_text() == "cat"
    assert names(tmp_path) == ["moved", "out"]


def test_a_destination_that_becomes_somebody_elses_in_the_last_moment_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "out", "one")
    exchange = publish._exchange
    calls: list[Path] = []

    def swapped_under_us(a: Path, b: Path) -> bool:
        if not calls:
            (b / "mark").rename(b / "cat.png")
        calls.append(a)
        return exchange(a, b)

    monkeypatch.setattr(publish, "_exchange", swapped_under_us)
    with pytest.raises(OutputError, match="it holds files but no mark"):
        fill(tmp_path / "out", "two")
    assert names(tmp_path / "out") == ["cat.png"]
    assert names(tmp_path) == ["out"]


def test_a_directory_that_was_set_aside_comes_back(tmp_path: Path) -> None:
    fill(tmp_path / "out", "one")
    (tmp_path / "out").rename(tmp_path / ".aigc-old-out")

    def publish_and_fail() -> None:
        with atomic_directory(tmp_path / "out", marker="mark"):
            raise ValueError("not today")

    with pytest.raises(ValueError, match="not today"):
        publish_and_fail()
    assert (tmp_path / "out" / "mark").read_text() == "one"


def test_what_is_not_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_text("cat")
    with pytest.raises(OutputError, match=r"it holds files but no mark, so it was not written by this tool"):
        fill(tmp_path / "photos", "x")
    (tmp_path / "file").write_text("text")
    with pytest.raises(OutputError, match="exists and is not a directory"):
        fill(tmp_path / "file", "x")
    fill(tmp_path / "real", "one")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(OutputError, match="exists and is not a directory"):
        fill(tmp_path / "link", "x")
    with pytest.raises(OutputError, match=r"part of the path is a file|a file of that name is in the way"):
        fill(tmp_path / "file" / "out", "x")
    assert (tmp_path / "photos" / "cat.png").read_text() == "cat"
    assert (tmp_path / "file").read_text() == "text"
    assert (tmp_path / "real" / "mark").read_text() == "one"
    (tmp_path / "empty").mkdir()
    fill(tmp_path / "empty", "fine")


def test_too_little_space_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free

    def publish_much() -> None:
        with atomic_directory(tmp_path / "out", marker="mark", needed_bytes=free * 2):
            pytest.fail("began")

    with pytest.raises(OutputError, match=r"bytes free, [\d,]+ are needed\nfree some space"):
        publish_much()
    assert names(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="you may not write there"):
        fill(tmp_path / "locked" / "out", "x")


def test_files_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "file"
    atomic_write_bytes(path, b"one")
    atomic_write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o644

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match="No space left"):
        atomic_write_bytes(path, b"three")
    assert path.read_bytes() == b"two"
    assert names(path.parent) == ["file"]


def test_a_file_may_be_staged_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    seen: list[list[str]] = []

    def watch(_: int) -> None:
        seen.append([p.name for p in (tmp_path / "folder").iterdir()])

    monkeypatch.setattr("os.fsync", watch)
    atomic_write_bytes(tmp_path / "folder" / "file", b"new", staging=tmp_path)
    assert seen == [[], ["file"]], "a reader of the folder sees no temporary file"
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
    assert (tmp_path / "folder" / "file").read_bytes() == b"new"


def test_a_file_that_is_written_piece_by_piece(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file"
    with atomic_file(target) as file:
        file.write(b"one")
        assert not target.exists()
        file.write(b"two")
    assert target.read_bytes() == b"onetwo"

    def interrupted() -> None:
        with atomic_file(target) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    needed = r"bytes free, 1,152,921,504,606,846,976 are needed"
    with pytest.raises(OutputError, match=needed), atomic_file(target, needed_bytes=2**60):
        raise AssertionError("the body must not run")
    assert target.read_bytes() == b"onetwo"
    assert names(target.parent) == ["file"]
