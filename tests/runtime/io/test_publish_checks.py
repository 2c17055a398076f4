"""What cannot be published is refused before the work, by what is in the way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aigc_runtime.errors import OutputError
from aigc_runtime.io import publish_checks
from aigc_runtime.io.publish import atomic_directory
from aigc_runtime.io.publish_checks import check_directory, check_file

LONGEST = 255 - len(".aigc-staging-")


def test_a_name_must_leave_room_for_the_temporary_ones(tmp_path: Path) -> None:
    """One longer was found out when all the work was done."""
    check_directory(tmp_path / ("n" * LONGEST), marker="m")
    with atomic_directory(tmp_path / ("n" * LONGEST), marker="m") as staging:
        (staging / "m").touch()
    for name in ("n" * (LONGEST + 1), "é" * 127, "n" * 300, "n" * 300 + "/out"):
        with pytest.raises(OutputError, match=r"(?s)File name too long"):
            check_directory(tmp_path / name, marker="m")
    assert [p.name for p in tmp_path.iterdir()] == ["n" * LONGEST]


def test_a_mount_point_cannot_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mounted").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: os.fspath(path) == str(tmp_path / "mounted"))
    with pytest.raises(OutputError) as caught:
        check_directory(tmp_path / "mounted", marker="m")
    assert "choose a place inside it" in caught.value.hint
    check_directory(tmp_path / "mounted" / "out", marker="m")


@pytest.mark.skipif(not hasattr(os, "statvfs"), reason="only POSIX says so")
def test_a_read_only_file_system_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class ReadOnly:
        f_flag = os.ST_RDONLY

    monkeypatch.setattr(os, "statvfs", lambda _: ReadOnly)
    for check in (lambda: check_directory(tmp_path / "out", marker="m"), lambda: check_file(tmp_path / "out")):
        with pytest.raises(OutputError, match="Read-only file system") as caught:
            check()
        assert "choose another place" in caught.value.hint


@pytest.mark.parametrize("place", [".", "..", "/", "sub/.."])
def test_the_folder_that_the_program_runs_in_is_not_taken_away(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "sub").mkdir(parents=True)
    (tmp_path / "here" / "m").touch()
    (tmp_path / "m").touch()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(OutputError, match="the program runs in it"):
        check_directory(place, marker="m")
    check_directory("sub", marker="m")


def test_nothing_is_made_inside_a_bundle(toy_bundles: Path, tmp_path: Path) -> None:
    bundle = toy_bundles / "toy_gan"
    (tmp_path / "link").symlink_to(bundle)
    for check in (lambda p: check_directory(p, marker="m"), check_file):
        for place in (bundle / "inner", bundle / "deep" / "er", tmp_path / "link" / "inner"):
            with pytest.raises(OutputError, match="is a bundle, which would no longer open"):
                check(place)
    check_directory(bundle, marker="manifest.json")


def test_a_pipe_in_the_place_of_a_manifest_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / publish_checks.MANIFEST)
    check_file(tmp_path / "out")
    (tmp_path / "folder").mkdir()
    check_directory(tmp_path / "folder" / "out", marker="m")
