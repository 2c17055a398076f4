"""A device that trusts certain keys opens nothing else: the signature comes before all parsing and hashing."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aigc_runtime.bundle import bundle as bundle_module
from aigc_runtime.bundle.bundle import Bundle, write_bundle
from aigc_runtime.cli.main import run
from aigc_runtime.errors import AigcError, BundleError, ConfigError, EngineMissingError
from aigc_runtime.opening import open_pipeline

from .. import toys
from ..keys import Pair

POSIX = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX file system")


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIGC_TRUSTED_KEYS", raising=False)


@pytest.fixture
def unsigned(toy_bundles: Path, tmp_path: Path) -> Path:
    shutil.copytree(toy_bundles / "toy_gan", tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def pair() -> Pair:
    return Pair(1)


@pytest.fixture
def signed(unsigned: Path, pair: Pair) -> Path:
    return pair.sign_bundle(unsigned)


def test_a_signed_bundle_opens(signed: Path, pair: Pair) -> None:
    opened = Bundle.open(signed, trusted_keys=[Pair(2).public, pair.public])
    assert (opened.has_signature, opened.signed_by) == (True, pair.public.key_id)
    assert opened.signature_told == f"signed by {pair.public.key_id}, verified"
    unchecked = Bundle.open(signed)
    assert (unchecked.has_signature, unchecked.signed_by) == (True, None)
    assert unchecked.signature_told == "signed, not checked"
    digest = opened.manifest_sha256
    assert Bundle.open(signed, trusted_keys=[pair.public], expect_manifest_sha256=digest).signed_by is not None


def test_an_unsigned_bundle_opens_only_without_keys(unsigned: Path, pair: Pair) -> None:
    opened = Bundle.open(unsigned)
    assert (opened.has_signature, opened.signed_by, opened.signature_told) == (False, None, "not signed")
    with pytest.raises(BundleError, match="the bundle is not signed, and only signed ones are trusted here"):
        Bundle.open(unsigned, trusted_keys=[pair.public])
    with pytest.raises(ConfigError, match="trusted_keys is empty"):
        Bundle.open(unsigned, trusted_keys=[])


def other_key(folder: Path) -> None:
    Pair(3).sign_bundle(folder)


def changed_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b"toy_gan", b"toy_gun"))


def of_another_bundle(folder: Path) -> None:
    (folder / "manifest.sig").write_bytes(Pair(1).sign(b"{}\n"))


def cut(folder: Path) -> None:
    os.truncate(folder / "manifest.sig", 100)


def removed(folder: Path) -> None:
    (folder / "manifest.sig").unlink()


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (other_key, "which is not trusted here"),
        (changed_manifest, "does not belong to this manifest"),
        (of_another_bundle, "does not belong to this manifest"),
        (cut, r"manifest\.sig is not valid"),
        (removed, "the bundle is not signed"),
    ],
)
def test_nothing_is_parsed_or_hashed_before_the_signature(
    attack: Callable[[Path], None], message: str, signed: Path, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(bundle_module, "parse_manifest", lambda raw: seen.append("parsed"))
    monkeypatch.setattr(bundle_module, "_check_file", lambda path, info: seen.append("hashed"))
    attack(signed)
    with pytest.raises(BundleError, match=message) as caught:
        Bundle.open(signed, trusted_keys=[pair.public])
    assert caught.value.exit_code == 4
    assert seen == []
    pair.sign_bundle(signed)
    with pytest.raises(AttributeError):  # the spy parses nothing
        Bundle.open(signed, trusted_keys=[pair.public])
    assert seen == ["parsed"], "the spy sees what does arrive"


@pytest.mark.slow
def test_no_changed_byte_of_manifest_or_signature_opens(signed: Path, pair: Pair) -> None:
    for name in ("manifest.json", "manifest.sig"):
        sound = (signed / name).read_bytes()
        for at in range(len(sound)):
            (signed / name).write_bytes(sound[:at] + bytes([sound[at] ^ 1 << at % 8]) + sound[at + 1 :])
            with pytest.raises(BundleError):
                Bundle.open(signed, trusted_keys=[pair.public])
        (signed / name).write_bytes(sound)
    assert Bundle.open(signed, trusted_keys=[pair.public]).signed_by == pair.public.key_id


def test_the_signature_covers_every_file_through_the_manifest(signed: Path, pair: Pair) -> None:
    with (signed / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(BundleError, match=r"'model\.onnx' has [\d,]+ bytes, expected"):
        Bundle.open(signed, trusted_keys=[pair.public])


def large(path: Path) -> None:
    path.write_bytes(b" " * 4097)


def link(path: Path) -> None:
    (path.parent.parent / "elsewhere.sig").write_bytes(b"{}")
    path.symlink_to(path.parent.parent / "elsewhere.sig")


def hard_link(path: Path) -> None:
    (path.parent.parent / "elsewhere.sig").write_bytes(b"{}")
    os.link(path.parent.parent / "elsewhere.sig", path)


@POSIX
@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (large, r"'manifest\.sig' is larger than 4,096 bytes"),
        (link, r"'manifest\.sig' is a symbolic link"),
        (lambda path: path.symlink_to(path.with_name("gone")), r"'manifest\.sig' is a symbolic link"),
        (hard_link, r"'manifest\.sig' is a hard link"),
        (os.mkfifo, r"'manifest\.sig' is not a plain file"),
        (Path.mkdir, r"'manifest\.sig' is not a plain file"),
    ],
    ids=["large", "link", "link to nothing", "hard link", "pipe", "folder"],
)
def test_a_signature_is_a_small_plain_file_even_where_nobody_checks_it(
    attack: Callable[[Path], None], message: str, unsigned: Path
) -> None:
    attack(unsigned / "manifest.sig")
    with pytest.raises(BundleError, match=message):
        Bundle.open(unsigned)


def test_the_content_of_an_unchecked_signature_is_not_judged(unsigned: Path) -> None:
    (unsigned / "manifest.sig").write_bytes(b"of a format to come")
    assert Bundle.open(unsigned).signature_told == "signed, not checked"
    (unsigned / "manifest.SIG").write_bytes(b"")
    with pytest.raises(BundleError, match=r"holds 'manifest\.SIG', which its manifest does not list"):
        Bundle.open(unsigned)


# -- publishing -----------------------------------------------------------------------------------------------------


def test_a_bundle_appears_signed_and_a_new_one_loses_the_old_signature(tmp_path: Path, pair: Pair) -> None:
    manifest, files = toys.toy_manifest("toy_gan")
    write_bundle(tmp_path / "out", manifest, files, sign=pair.sign)
    assert Bundle.open(tmp_path / "out", trusted_keys=[pair.public]).signed_by == pair.public.key_id
    write_bundle(tmp_path / "out", manifest, files)
    assert Bundle.open(tmp_path / "out").signature_told == "not signed"


def test_a_signer_that_fails_leaves_the_old_bundle(signed: Path, pair: Pair) -> None:
    def broken(_: bytes) -> bytes:
        raise ConfigError("the key is gone")

    before = {p.name: p.read_bytes() for p in signed.iterdir()}
    manifest, files = toys.toy_manifest("toy_unet")
    with pytest.raises(ConfigError, match="the key is gone"):
        write_bundle(signed, manifest, files, sign=broken)
    assert {p.name: p.read_bytes() for p in signed.iterdir()} == before


def test_no_file_of_a_bundle_is_called_like_its_signature(tmp_path: Path) -> None:
    manifest, files = toys.toy_manifest("toy_gan")
    with pytest.raises(ConfigError, match=r"'Manifest\.sig' is not allowed"):
        write_bundle(tmp_path / "out", manifest, {**files, "Manifest.sig": b""})


# -- the environment, pipelines, the command line -------------------------------------------------------------------


def test_the_environment_binds_every_way_in(
    unsigned: Path, pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AIGC_TRUSTED_KEYS", str(pair.write_pem(tmp_path / "public.pem")))
    for opens in (Bundle.open, open_pipeline):
        with pytest.raises(BundleError, match="the bundle is not signed"):
            opens(unsigned)
    for verb in ("info", "verify", "generate", "bench", "doctor"):
        assert run([verb, str(unsigned)]) == 4
        assert "the bundle is not signed" in capsys.readouterr().err
    pair.sign_bundle(unsigned)
    assert Bundle.open(unsigned).signed_by == pair.public.key_id
    assert run(["info", str(unsigned)]) == 0
    assert f"signed by {pair.public.key_id}, verified\n" in capsys.readouterr().out
    # What is named explicitly counts in place of the environment.
    with pytest.raises(BundleError, match="not trusted here"):
        Bundle.open(unsigned, trusted_keys=[Pair(2).public])


def test_an_environment_without_keys_opens_nothing(
    unsigned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AIGC_TRUSTED_KEYS", "")
    with pytest.raises(ConfigError, match="AIGC_TRUSTED_KEYS is ''"):
        Bundle.open(unsigned)
    assert run(["info", str(unsigned)]) == 2
    assert "unset it to open bundles without a signature" in capsys.readouterr().err


def test_pipelines_take_keys(signed: Path, pair: Pair) -> None:
    pytest.importorskip("onnxruntime")
    open_pipeline(signed, threads=1, trusted_keys=[pair.public])
    with pytest.raises(BundleError, match="not trusted here"):
        open_pipeline(signed, trusted_keys=[Pair(2).public])
    with pytest.raises(ConfigError, match="trusted_keys comes too late: the bundle is open already"):
        open_pipeline(Bundle.open(signed), trusted_keys=[pair.public])


@pytest.mark.parametrize("verb", ["info", "verify", "generate", "bench", "doctor"])
def test_every_verb_checks(
    verb: str, signed: Path, pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, other = pair.write_pem(tmp_path / "ours.pem"), Pair(2).write_pem(tmp_path / "other.pem")
    more = {"generate": ["-o", str(tmp_path / "x.png")], "bench": ["--runs", "1"]}.get(verb, [])
    assert run([verb, str(signed), "--trusted-key", str(other), "--trusted-key", str(ours), *more]) == 0
    assert run([verb, str(signed), "--trusted-key", str(other), *more]) == 4
    assert "which is not trusted here" in capsys.readouterr().err
    assert run([verb, str(signed), "--trusted-key", str(tmp_path / "gone.pem"), *more]) == 2
    assert f"no such file: '{tmp_path / 'gone.pem'}'" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["info", "doctor"])
def test_info_and_doctor_say_who_signed(
    verb: str, unsigned: Path, pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, key_id = str(unsigned), pair.public.key_id
    trust = ["--trusted-key", str(pair.write_pem(tmp_path / "public.pem").parent)]

    def told(*more: str) -> tuple[str, object, object]:
        assert run([verb, folder, *more]) == 0
        text = capsys.readouterr().out
        assert run([verb, folder, *more, "--json"]) == 0
        plain = json.loads(capsys.readouterr().out)
        assert ("note " in text) == (verb == "doctor" and not more)
        line = next(line for line in text.splitlines() if line.startswith("origin"))
        return line.removeprefix("origin").strip(), plain["has_signature"], plain["signed_by"]

    assert told() == ("not signed", False, None)
    pair.sign_bundle(unsigned)
    assert told() == ("signed, not checked", True, None)
    assert told(*trust) == (f"signed by {key_id}, verified", True, key_id)


def test_without_the_package_nothing_that_must_be_checked_opens(
    signed: Path, pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pem = str(pair.write_pem(tmp_path / "public.pem"))
    for name in [name for name in sys.modules if name.split(".")[0] == "cryptography"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert Bundle.open(signed).signature_told == "signed, not checked"
    with pytest.raises(EngineMissingError, match="signatures need the package cryptography"):
        Bundle.open(signed, trusted_keys=[pair.public])
    assert run(["info", signed.as_posix(), "--trusted-key", pem]) == 5
    assert "pip install 'aigc-runtime[verify]'" in capsys.readouterr().err
    monkeypatch.setenv("AIGC_TRUSTED_KEYS", pem)
    with pytest.raises(AigcError, match="signatures need the package cryptography"):
        Bundle.open(signed)
