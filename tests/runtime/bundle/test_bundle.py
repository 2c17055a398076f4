"""A bundle opens only if every byte is what its manifest says; hashes come before parsing."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aigc_runtime.bundle import bundle as bundle_module
from aigc_runtime.bundle.bundle import Bundle, write_bundle
from aigc_runtime.bundle.manifest_file import dump_manifest
from aigc_runtime.errors import AigcError, BundleError, ConfigError, OutputError
from aigc_runtime.opening import open_session

from .. import toys

POSIX = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX file system")


@pytest.fixture
def bundle(toy_bundles: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    shutil.copytree(toy_bundles / "toy_gan", tmp_path / "bundle")
    return tmp_path / "bundle"


def test_what_was_written_opens(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    assert opened.manifest_sha256 == hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    assert {f.path for f in opened.manifest.files} == {p.name for p in bundle.iterdir()} - {"manifest.json"}
    assert opened.size_bytes == sum(p.stat().st_size for p in bundle.iterdir() if p.name != "manifest.json")
    for info in opened.manifest.files:
        assert opened.read(info.path) == (bundle / info.path).read_bytes()
    with pytest.raises(BundleError, match=r"the bundle has no file 'gone\.npy'"):
        opened.file("gone.npy")
    with pytest.raises(BundleError, match=r"model\.onnx is not a \.npy file"):
        opened.array("model.onnx")


def test_a_bundle_can_be_pinned(bundle: Path) -> None:
    digest = Bundle.open(bundle).manifest_sha256
    assert Bundle.open(bundle, expect_manifest_sha256=digest).manifest_sha256 == digest
    with pytest.raises(BundleError, match=f"manifest.json has SHA-256 {digest}, expected 0000"):
        Bundle.open(bundle, expect_manifest_sha256="0" * 64)


def test_places_that_hold_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a folder"):
        Bundle.open(tmp_path / "gone")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BundleError, match="is not a folder"):
        Bundle.open(str(tmp_path / "file"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match=r"'manifest\.json' is not readable \(No such file"):
        Bundle.open(tmp_path / "empty")


def _cut(folder: Path) -> None:
    os.truncate(folder / "model.onnx", 10)


def _longer(folder: Path) -> None:
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\0")


def _same_size(folder: Path) -> None:
    data = bytearray((folder / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.onnx").write_bytes(data)


def _missing(folder: Path) -> None:
    (folder / "ref.generation.npy").unlink()


def _extra(folder: Path) -> None:
    (folder / "extra.bin").write_bytes(b"")


def _hidden(folder: Path) -> None:
    (folder / ".git").mkdir()


def _symlink(folder: Path) -> None:
    (folder / "model.onnx").rename(folder.parent / "elsewhere.onnx")
    (folder / "model.onnx").symlink_to(folder.parent / "elsewhere.onnx")


def _hardlink(folder: Path) -> None:
    os.link(folder / "model.onnx", folder.parent / "other-name.onnx")


def _fifo(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    os.mkfifo(folder / "model.onnx")


def _directory(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").mkdir()


def _socket(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    here = Path.cwd()
    os.chdir(folder)  # the path of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind("model.onnx")
    finally:
        os.chdir(here)


def _manifest_link(folder: Path) -> None:
    (folder / "manifest.json").rename(folder.parent / "manifest.json")
    (folder / "manifest.json").symlink_to(folder.parent / "manifest.json")


def _large_manifest(folder: Path) -> None:
    with (folder / "manifest.json").open("ab") as file:
        file.write(b" " * 2**20)


@POSIX
@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (_cut, r"'model\.onnx' has 10 bytes, expected [\d,]+\nit was cut"),
        (_longer, r"'model\.onnx' has [\d,]+ bytes, expected"),
        (_same_size, r"'model\.onnx' has SHA-256 [0-9a-f]{64}, expected"),
        (_missing, r"the bundle lacks 'ref\.generation\.npy'"),
        (_extra, r"holds 'extra\.bin', which its manifest does not list"),
        (_hidden, r"holds '\.git', which its manifest does not list"),
        (_symlink, r"'model\.onnx' is a symbolic link"),
        (_hardlink, r"'model\.onnx' is a hard link"),
        (_fifo, r"'model\.onnx' is not a plain file"),
        (_directory, r"'model\.onnx' is not a plain file"),
        (_socket, r"'model\.onnx' is not (readable|a plain file)"),
        (_manifest_link, r"'manifest\.json' is a symbolic link"),
        (_large_manifest, r"'manifest\.json' is larger than 1,048,576 bytes"),
    ],
)
def test_every_change_of_the_folder_is_found(attack: Callable[[Path], None], message: str, bundle: Path) -> None:
    attack(bundle)
    with pytest.raises(BundleError, match=message):
        Bundle.open(bundle)


def test_a_file_that_the_disk_does_not_give_is_named(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails in the middle of a file, as `read` tells it."""
    real = hashlib.sha256

    class Failing:
        def __init__(self, data: bytes | None = None) -> None:
            self.digest = None if data is None else real(data)

        def update(self, _: bytes) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        def hexdigest(self) -> str:
            assert self.digest is not None
            return self.digest.hexdigest()

    monkeypatch.setattr("aigc_runtime.bundle.bundle.hashlib.sha256", Failing)
    with pytest.raises(BundleError, match=r"cannot be read: Input/output error\ncheck the disk"):
        Bundle.open(bundle)


@pytest.mark.any_python
def test_every_single_byte_flip_is_found(bundle: Path) -> None:
    digest = Bundle.open(bundle).manifest_sha256
    rng = random.Random(0)
    for path in sorted(bundle.iterdir()):
        sound = path.read_bytes()
        for at in rng.sample(range(len(sound)), min(len(sound), 40)):
            damaged = bytearray(sound)
            damaged[at] ^= 1 << rng.randrange(8)
            path.write_bytes(damaged)
            with pytest.raises(BundleError):
                Bundle.open(bundle, expect_manifest_sha256=digest)
        path.write_bytes(sound)
    Bundle.open(bundle, expect_manifest_sha256=digest)


def test_nothing_is_parsed_before_it_is_hashed(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr("aigc_runtime.bundle.bundle.read_npy", lambda data, what: seen.append(what))
    _same_size(bundle)
    with pytest.raises(BundleError):
        open_session(Bundle.open(bundle))
    assert seen == []


def test_a_change_after_opening_is_found_when_the_file_is_used(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    _same_size(bundle)
    with pytest.raises(BundleError, match=r"file 'model\.onnx' changed after the bundle was opened"):
        open_session(opened)
    (bundle / "ref.generation.npy").write_bytes(b"")
    with pytest.raises(BundleError, match="changed after the bundle was opened"):
        opened.array("ref.generation.npy")


@pytest.mark.parametrize("name", ["../evil", "a/b", "manifest.json", "/etc/passwd", ""])
def test_a_bad_name_is_never_written(name: str, tmp_path: Path) -> None:
    manifest, files = toys.toy_manifest("toy_gan")
    with pytest.raises(ConfigError, match="not allowed in a bundle"):
        write_bundle(tmp_path / "out", manifest, {**files, name: b"x"})
    assert list(tmp_path.iterdir()) == []


def test_files_are_copied_and_may_replace_a_bundle(bundle: Path, tmp_path: Path) -> None:
    manifest, files = toys.toy_manifest("toy_unet")
    (tmp_path / "weights").write_bytes(b"w" * 3_000_000)
    write_bundle(bundle, manifest, {**files, "weights.bin": tmp_path / "weights"})
    opened = Bundle.open(bundle)
    assert opened.manifest.name == "toy_unet"
    assert opened.read("weights.bin") == b"w" * 3_000_000


def test_an_inconsistent_bundle_is_not_published(bundle: Path) -> None:
    before = Bundle.open(bundle).manifest_sha256
    manifest, files = toys.toy_manifest("toy_unet")
    del files["ref.generation.npy"]
    with pytest.raises((ConfigError, BundleError), match=r"files lacks \['ref\.generation\.npy'\]"):
        write_bundle(bundle, manifest, files)
    assert Bundle.open(bundle).manifest_sha256 == before


@pytest.mark.parametrize("damage", ["remove", "change", "add"])
def test_what_was_written_must_be_there_before_it_is_published(
    damage: str, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Bundle.open(bundle).manifest_sha256
    manifest, files = toys.toy_manifest("toy_gan")
    fill = bundle_module.fill_bundle

    def fill_and_damage(folder: Path, *arguments: Any) -> object:
        filled = fill(folder, *arguments)
        if damage == "remove":
            (folder / "model.onnx").unlink()
        elif damage == "change":
            (folder / "ref.generation.npy").write_bytes(bytes((folder / "ref.generation.npy").stat().st_size))
        else:
            (folder / "stranger").write_bytes(b"")
        return filled

    monkeypatch.setattr(bundle_module, "fill_bundle", fill_and_damage)
    with pytest.raises(OutputError, match="what was written is not there as it was written"):
        write_bundle(bundle, manifest, files)
    assert Bundle.open(bundle).manifest_sha256 == before
    assert [p.name for p in bundle.parent.iterdir()] == ["bundle"]


def test_a_source_that_vanished(bundle: Path, tmp_path: Path) -> None:
    before = Bundle.open(bundle).manifest_sha256
    manifest, files = toys.toy_manifest("toy_gan")
    with pytest.raises((OutputError, FileNotFoundError)):
        write_bundle(bundle, manifest, {**files, "weights.bin": tmp_path / "gone"})
    assert Bundle.open(bundle).manifest_sha256 == before


LIMITED = """
import resource, sys
sys.dont_write_bytecode = True  # Python 3.11 and older leave a compiled source that the limit has cut off
sys.path.insert(0, sys.argv[2])
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
import toys
from aigc_runtime.bundle.bundle import write_bundle
from aigc_runtime.errors import OutputError
manifest, files = toys.toy_manifest("toy_gan")
try:
    write_bundle(sys.argv[1], manifest, {**files, "weights.bin": bytes(100_000)})
except OutputError as err:
    sys.exit(f"{err}")
"""


@POSIX
@pytest.mark.parametrize("limit", [0, 100, 1_000, 50_000, 99_999])
def test_a_disk_that_takes_no_more_leaves_the_old_bundle(limit: int, bundle: Path) -> None:
    before = Bundle.open(bundle).manifest_sha256
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, str(bundle), str(Path(__file__).parents[1]), str(limit)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert run.returncode == 1
    assert "cannot write" in run.stderr
    assert "what was there before is unchanged" in run.stderr
    assert "Traceback" not in run.stderr
    assert Bundle.open(bundle).manifest_sha256 == before
    assert [p.name for p in bundle.parent.iterdir()] == ["bundle"]


def test_an_unknown_manifest_field_in_a_whole_bundle(bundle: Path) -> None:
    plain = json.loads((bundle / "manifest.json").read_bytes())
    plain["hook"] = "os.system"
    (bundle / "manifest.json").write_text(json.dumps(plain))
    with pytest.raises(AigcError, match=r"\$\.hook is not a known field"):
        Bundle.open(bundle)


def test_the_same_content_gives_the_same_manifest(tmp_path: Path) -> None:
    digests = set()
    for name in ("a", "b"):
        manifest, files = toys.toy_manifest("toy_lm_growing")
        write_bundle(tmp_path / name, manifest, files)
        opened = Bundle.open(tmp_path / name)
        digests.add(opened.manifest_sha256)
        assert dump_manifest(opened.manifest) == (tmp_path / name / "manifest.json").read_bytes()
    assert len(digests) == 1
