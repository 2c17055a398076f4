"""Keys and signatures on the host: made, kept from harm, and believed by a device."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from aigc_export.cli import run
from aigc_export.line import signing
from aigc_export.line.signing import load_signer, make_keys, sign_bundle
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.bundle.trusted_keys import read_trusted_keys
from aigc_runtime.errors import AigcError, BundleError, ConfigError, EngineMissingError, OutputError
from aigc_runtime.io.publish_lock import destination_lock

from ..cli.test_group import contents, export_arguments

pytestmark = pytest.mark.usefixtures("capture_once")
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIGC_TRUSTED_KEYS", raising=False)
    monkeypatch.delenv("AIGC_KEY_PASSPHRASE", raising=False)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    make_keys(tmp_path / "keys")
    return tmp_path / "keys"


def test_a_pair_of_keys(tmp_path: Path) -> None:
    public = make_keys(tmp_path / "new" / "keys")
    private = tmp_path / "new" / "keys" / "private.pem"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert private.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----\n")
    assert read_trusted_keys(private.with_name("public.pem")) == (public,)
    assert load_signer(private).key_id == public.key_id
    assert "private" not in repr(load_signer(private))
    assert make_keys(tmp_path / "others") != public


def test_a_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIGC_KEY_PASSPHRASE", "a long one")
    public = make_keys(tmp_path)
    private = tmp_path / "private.pem"
    assert private.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    assert load_signer(private).key_id == public.key_id
    monkeypatch.setenv("AIGC_KEY_PASSPHRASE", "another")
    with pytest.raises(ConfigError, match="is AIGC_KEY_PASSPHRASE its passphrase"):
        load_signer(private)
    monkeypatch.setenv("AIGC_KEY_PASSPHRASE", "")
    for call in (lambda: load_signer(private), lambda: make_keys(tmp_path / "more")):
        with pytest.raises(ConfigError, match="AIGC_KEY_PASSPHRASE is empty"):
            call()
    assert not (tmp_path / "more").exists()
    monkeypatch.delenv("AIGC_KEY_PASSPHRASE")
    with pytest.raises(ConfigError, match="is encrypted\nset AIGC_KEY_PASSPHRASE"):
        load_signer(private)


@pytest.mark.parametrize("name", ["private.pem", "public.pem"])
def test_no_key_is_overwritten(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(OutputError, match=f"{name}' exists, and a key is never overwritten"):
        make_keys(tmp_path)
    assert contents(tmp_path) == {name: b"precious"}


def test_a_place_that_takes_no_keys(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot write"):
        make_keys(tmp_path / "file" / "keys")


def test_what_is_no_private_key(keys: Path, tmp_path: Path) -> None:
    pem = (form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    (tmp_path / "ec.pem").write_bytes(ec.generate_private_key(ec.SECP256R1()).private_bytes(*pem))
    (tmp_path / "noise.pem").write_bytes(b"\x00\xff")
    for path, message in (
        (tmp_path / "gone.pem", "no such file"),
        (tmp_path, "is a folder"),
        (keys / "public.pem", "cannot be read as a private key in PEM"),
        (tmp_path / "noise.pem", "cannot be read as a private key in PEM"),
        (tmp_path / "ec.pem", "is not an Ed25519 key"),
    ):
        with pytest.raises(ConfigError, match=message) as caught:
            load_signer(path)
        assert "aigc-export keygen" in caught.value.hint


def test_a_key_made_elsewhere(tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.from_private_bytes(
        bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    )
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    (tmp_path / "rfc.pem").write_bytes(private)
    signed = json.loads(load_signer(tmp_path / "rfc.pem")(b"{}\n"))
    # The golden file of the runtime's tests.
    assert signed["key_id"] == "21fe31dfa154a261"
    assert signed["signature"].startswith("d481ca72de86f385e1f2068a7c1521a4bb440c01f67f0e08416add525be62704")


def test_a_missing_package_gives_its_install_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "cryptography"]:
        monkeypatch.setitem(sys.modules, name, None)
    for call in (lambda: make_keys(tmp_path), lambda: load_signer(tmp_path / "private.pem")):
        with pytest.raises(EngineMissingError) as caught:
            call()
        assert caught.value.hint == "pip install 'aigc-runtime[verify]'"


# From the shell


def test_the_whole_way_from_the_shell(
    checkpoints: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, out = tmp_path / "keys", tmp_path / "out"
    assert run(["keygen", "-o", str(keys), "--json"]) == 0
    key_id = json.loads(capsys.readouterr().out)["key_id"]
    assert run(["keygen", "-o", str(keys)]) == 6
    assert run(export_arguments("gan", checkpoints, out, "--sign-key", str(keys / "private.pem"), "--json")) == 0
    assert json.loads(capsys.readouterr().out)["signed_by"] == key_id
    trusted = read_trusted_keys(keys / "public.pem")
    assert Bundle.open(out, trusted_keys=trusted).signed_by == key_id

    # Exported again without a key: the old signature does not stay.
    assert run(export_arguments("gan", checkpoints, out)) == 0
    assert "signed by" not in capsys.readouterr().out
    assert not (out / "manifest.sig").exists()

    # A host that trusts this key alone can still sign and export; what it opens must be signed.
    monkeypatch.setenv("AIGC_TRUSTED_KEYS", str(keys / "public.pem"))
    assert run(["inspect", str(out)]) == 4
    assert "the bundle is not signed" in capsys.readouterr().err
    assert run(["sign", str(out), "--key", str(keys / "private.pem")]) == 0
    assert f"signed by {key_id}" in capsys.readouterr().out
    assert run(["inspect", str(out)]) == 0
    assert f"signed by {key_id}, verified\n" in capsys.readouterr().out
    assert run(export_arguments("gan", checkpoints, tmp_path / "unsigned")) == 0
    assert run(["generate", str(tmp_path / "unsigned"), "-o", str(tmp_path / "x.png")]) == 4


def test_a_key_that_is_no_use_is_refused_before_the_work(
    checkpoints: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aigc_export.line.exporter.export_model", lambda *_, **__: pytest.fail("the work began"))
    assert run(export_arguments("gan", checkpoints, tmp_path / "out", "--sign-key", str(tmp_path / "gone.pem"))) == 2
    assert "error: no such file: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# Signing what is there


@pytest.fixture
def bundle(checkpoints: Path, tmp_path: Path) -> Path:
    assert run(export_arguments("gan", checkpoints, tmp_path / "bundle")) == 0
    return tmp_path / "bundle"


def test_a_signature_is_added_replaced_and_nothing_else_changes(bundle: Path, keys: Path, tmp_path: Path) -> None:
    before, beside = contents(bundle), sorted(tmp_path.iterdir())
    first = sign_bundle(bundle, load_signer(keys / "private.pem"))
    other = make_keys(tmp_path / "keys" / "other")
    again = sign_bundle(bundle, load_signer(tmp_path / "keys" / "other" / "private.pem"))
    assert first.manifest_sha256 == again.manifest_sha256
    assert Bundle.open(bundle, trusted_keys=[other]).signed_by == other.key_id
    assert {k: v for k, v in contents(bundle).items() if k != "manifest.sig"} == before
    assert sorted(tmp_path.iterdir()) == beside
    with pytest.raises(BundleError, match="which is not trusted here"):
        Bundle.open(bundle, trusted_keys=read_trusted_keys(keys / "public.pem"))


def test_a_damaged_bundle_is_not_signed(bundle: Path, keys: Path, capsys: Capture) -> None:
    with (bundle / "model.onnx").open("ab") as file:
        file.write(b"\0")
    before = contents(bundle)
    assert run(["sign", str(bundle), "--key", str(keys / "private.pem")]) == 4
    assert "'model.onnx' has" in capsys.readouterr().err
    assert contents(bundle) == before


def test_a_manifest_that_changes_meanwhile_is_not_signed(
    bundle: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aigc_export.line.signing.read_regular", lambda path, limit: b"another manifest")
    with pytest.raises(BundleError, match=r"manifest\.json changed while it was being signed"):
        sign_bundle(bundle, load_signer(keys / "private.pem"))
    assert not (bundle / "manifest.sig").exists()


def test_a_write_that_fails_leaves_the_old_signature(
    bundle: Path, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signer = load_signer(keys / "private.pem")
    sign_bundle(bundle, signer)
    before, beside = contents(bundle), sorted(tmp_path.iterdir())

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(AigcError, match="No space left on device"):
        sign_bundle(bundle, signer)
    assert (contents(bundle), sorted(tmp_path.iterdir())) == (before, beside)


@pytest.mark.parametrize("verb", ["keygen", "sign", "export"])
def test_help_loads_no_cryptography(verb: str) -> None:
    code = f"from aigc_export.cli import run; run([{verb!r}, '-h']); import sys; print('cryptography' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_a_passphrase_is_bytes_and_has_a_longest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a locale that is not UTF-8 ended as an internal error, as did what the library finds too long."""
    monkeypatch.setenv("AIGC_KEY_PASSPHRASE", "\udcff\udcfe")
    public = make_keys(tmp_path / "bytes")
    key = form.load_pem_private_key((tmp_path / "bytes" / "private.pem").read_bytes(), b"\xff\xfe")
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    assert load_signer(tmp_path / "bytes" / "private.pem").public == public
    monkeypatch.setenv("AIGC_KEY_PASSPHRASE", "x" * 5000)
    with pytest.raises(ConfigError, match=r"AIGC_KEY_PASSPHRASE cannot be used: .*1023 bytes"):
        make_keys(tmp_path / "long")
    assert not (tmp_path / "long").exists()


def test_of_two_keys_in_a_file_none_is_taken(keys: Path, tmp_path: Path) -> None:
    make_keys(tmp_path / "other")
    both = (keys / "private.pem").read_bytes() + (tmp_path / "other" / "private.pem").read_bytes()
    (tmp_path / "both.pem").write_bytes(both)
    with pytest.raises(ConfigError, match="holds 2 private keys"):
        load_signer(tmp_path / "both.pem")


def test_keys_are_not_put_into_a_bundle(bundle: Path) -> None:
    for folder in (bundle, bundle / "keys"):
        with pytest.raises(OutputError, match="is a bundle, which would no longer open"):
            make_keys(folder)
    Bundle.open(bundle)


def test_a_bundle_behind_a_link_is_signed_where_it_is(
    bundle: Path, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the lock of its own name, which an export takes, and staged on its own disk."""
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link"
    link.symlink_to(bundle)
    locked: list[Path] = []

    def lock(target: Path) -> AbstractContextManager[object]:
        locked.append(target)
        return destination_lock(target)

    monkeypatch.setattr(signing, "destination_lock", lock)
    signer = load_signer(keys / "private.pem")
    assert sign_bundle(link, signer).signed_by == signer.key_id
    assert locked == [bundle]


def test_sign_says_that_this_machine_does_not_trust_the_key(
    bundle: Path, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    make_keys(tmp_path / "other")
    arguments = ["sign", str(bundle), "--key", str(keys / "private.pem")]
    for trusted, warned in (("other", True), ("keys", False)):
        monkeypatch.setenv("AIGC_TRUSTED_KEYS", str(tmp_path / trusted / "public.pem"))
        assert run(arguments) == 0
        assert ("is not among those that AIGC_TRUSTED_KEYS names" in capsys.readouterr().err) is warned
