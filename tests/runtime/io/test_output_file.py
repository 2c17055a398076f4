"""What stands where a result is to be written is replaced, written to, or refused."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from aigc_runtime.cli.main import run
from aigc_runtime.errors import OutputError
from aigc_runtime.io.png import encode_png, write_png
from aigc_runtime.io.publish import atomic_write_bytes
from aigc_runtime.io.publish_checks import check_file
from aigc_runtime.io.report import check_outputs

from ...processes import clean, command

IMAGE = np.arange(48, dtype=np.uint8).reshape(4, 12)
pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs pipes and devices in the file system")


def device(path: Path, kind: int, major: int, minor: int) -> Path:
    try:
        os.mknod(path, kind | 0o666, os.makedev(major, minor))
    except PermissionError:
        pytest.skip("only root makes devices")
    return path


def test_a_device_is_written_to_and_stays(tmp_path: Path) -> None:
    null = device(tmp_path / "null", stat.S_IFCHR, 1, 3)
    check_file(null)
    write_png(null, IMAGE)
    assert stat.S_ISCHR(null.stat().st_mode)
    assert [p.name for p in tmp_path.iterdir()] == ["null"]
    full = device(tmp_path / "full", stat.S_IFCHR, 1, 7)
    with pytest.raises(OutputError, match="No space left on device"):
        write_png(full, IMAGE)
    assert stat.S_ISCHR(full.stat().st_mode)


def a_disk(path: Path) -> None:
    device(path, stat.S_IFBLK, 7, 200)


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def a_link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (a_disk, "it is a block device"),
        (a_socket, "it is a socket"),
        (Path.mkdir, "Is a directory"),
        (os.mkfifo, "nothing reads from it"),
        (a_link_to_itself, "Too many levels of symbolic links"),
    ],
)
def test_what_is_refused(make: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    make(tmp_path / "x.png")
    before = (tmp_path / "x.png").lstat().st_mode
    with pytest.raises(OutputError) as caught:
        write_png(tmp_path / "x.png", IMAGE)
    assert message in str(caught.value)
    assert (tmp_path / "x.png").lstat().st_mode == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]
    if make is not os.mkfifo:
        with pytest.raises(OutputError, match="cannot write"):
            check_file(tmp_path / "x.png")


def test_a_pipe_is_given_the_whole(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    handle = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    data = os.urandom(300_000)  # more than a pipe holds
    read = bytearray()

    def reading() -> None:
        while len(read) < len(data):
            select.select([handle], [], [], 0.01)
            with contextlib.suppress(BlockingIOError):
                read.extend(os.read(handle, 2**16))

    reader = threading.Thread(target=reading)
    reader.start()
    atomic_write_bytes(tmp_path / "pipe", data)
    reader.join()
    os.close(handle)
    assert read == data


def test_a_reader_that_goes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    handle = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    threading.Timer(0.2, os.close, [handle]).start()
    with pytest.raises(OutputError, match="its reader went away"):
        atomic_write_bytes(tmp_path / "pipe", bytes(300_000))


def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "old.png").write_bytes(b"old")
    (tmp_path / "link.png").symlink_to("there/old.png")
    (tmp_path / "new.png").symlink_to("there/new.png")
    for name, target in (("link.png", "old.png"), ("new.png", "new.png")):
        write_png(tmp_path / name, IMAGE)
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "there" / target).read_bytes() == encode_png(IMAGE)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["link.png", "new.png", "new.png", "old.png", "there"]


@pytest.fixture
def _private() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_private")
def test_permissions_are_the_users(tmp_path: Path) -> None:
    write_png(tmp_path / "new.png", IMAGE)
    assert stat.S_IMODE((tmp_path / "new.png").stat().st_mode) == 0o600
    (tmp_path / "shared.png").touch()
    (tmp_path / "shared.png").chmod(0o664)
    write_png(tmp_path / "shared.png", IMAGE)
    assert stat.S_IMODE((tmp_path / "shared.png").stat().st_mode) == 0o664


def test_folders_that_will_be_made_are_named(tmp_path: Path) -> None:
    assert check_file(tmp_path / "x.png") == ()
    assert check_file(tmp_path / "a" / "b" / "x.png") == (tmp_path / "a", tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="part of the path is a file"):
        check_file(tmp_path / "file" / "x.png")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_standard_output_by_its_name(toy_bundles: Path, tmp_path: Path) -> None:
    """The picture alone is in the file, once, also where standard output is one; and a new folder is told of."""
    program = command("aigc-run", "generate", str(toy_bundles / "toy_gan"))
    with (tmp_path / "redirected.png").open("wb") as out:
        done = subprocess.run(
            [*program, "-o", "/dev/stdout"], stdout=out, stderr=subprocess.PIPE, check=False, env=clean()
        )
    # Where it does not know the processor, ONNX Runtime writes a line of its own on standard error.
    assert (done.returncode, b"wrote /dev/stdout: 3 images" in done.stderr) == (0, True)
    place = tmp_path / "new" / "x.png"
    done = subprocess.run([*program, "-o", str(place)], capture_output=True, check=False, env=clean())
    assert f"note: the folder '{place.parent}' is not there and will be made\n" in done.stderr.decode()
    assert done.stdout.decode().startswith(f"wrote {place}: 3 images")
    assert (tmp_path / "redirected.png").read_bytes() == place.read_bytes()


def test_standard_error_by_its_name(toy_bundles: Path, tmp_path: Path) -> None:
    """A log that standard error goes to was replaced by the picture, and what came after went nowhere."""
    program = command("aigc-run", "generate", str(toy_bundles / "toy_gan"), "-o", "/dev/stderr")
    log = tmp_path / "log"
    with log.open("wb") as err:
        err.write(b"before\n")
        err.flush()
        done = subprocess.run(program, stdout=subprocess.PIPE, stderr=err, check=False, env=clean())
        err.write(b"after\n")
    assert (done.returncode, done.stdout.startswith(b"wrote /dev/stderr: 3 images")) == (0, True)
    assert log.read_bytes().startswith(b"before\n")
    assert b"\x89PNG" in log.read_bytes()
    assert log.read_bytes().endswith(b"after\n")


def test_nothing_is_written_into_a_bundle(toy_bundles: Path, tmp_path: Path) -> None:
    """It would open no more: a file that the manifest does not list, or a reference of other numbers."""
    bundle = tmp_path / "bundle"
    shutil.copytree(toy_bundles / "toy_gan", bundle)
    link = tmp_path / "link.png"
    link.symlink_to(bundle / "x.png")
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    for output in (bundle / "x.png", bundle / "ref.generation.npy", bundle / "sub" / "x.png", link):
        with pytest.raises(OutputError, match="is a bundle, which would no longer open"):
            check_outputs(output)
        assert run(["generate", str(bundle), "-o", str(output)]) == 6
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
    (tmp_path / "manifest.json").write_text('{"format": "of somebody else"}')
    check_outputs(tmp_path / "x.png")


def test_a_name_with_control_characters_is_not_told_raw(
    toy_bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["generate", str(toy_bundles / "toy_gan"), "-o", str(tmp_path / "\x1b[31m.png")]) == 0
    told = capsys.readouterr().out
    assert "\x1b" not in told
    assert "\\x1b[31m.png" in told
