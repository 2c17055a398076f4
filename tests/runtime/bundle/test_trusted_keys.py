"""Which keys a device trusts: PEM files, folders of them, and the environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aigc_runtime.bundle.trusted_keys import environment_keys, read_trusted_keys
from aigc_runtime.errors import ConfigError, EngineMissingError

from ..keys import Pair


def other_pem(name: str) -> bytes:
    """PEM files that are not one public Ed25519 key."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519

    public = (form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    ours = ed25519.Ed25519PrivateKey.generate()
    makers: dict[str, Callable[[], bytes]] = {
        "elliptic": lambda: ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(*public),
        "exchange": lambda: x25519.X25519PrivateKey.generate().public_key().public_bytes(*public),
        "private": lambda: ours.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()),
        "raw": lambda: ours.public_key().public_bytes_raw(),
        "der": lambda: ours.public_key().public_bytes(form.Encoding.DER, public[1]),
        "two": lambda: ours.public_key().public_bytes(*public) * 2,
        "cut": lambda: ours.public_key().public_bytes(*public)[:60],
        "empty": lambda: b"",
        "large": lambda: ours.public_key().public_bytes(*public) + b"\n" * 2**16,
    }
    return makers[name]()


def test_files_and_folders(tmp_path: Path) -> None:
    first, second = Pair(1), Pair(2)
    first.write_pem(tmp_path / "b.pem")
    second.write_pem(tmp_path / "a.pem")
    (tmp_path / "README").write_text("no key, and not named like one")
    assert read_trusted_keys(tmp_path) == (second.public, first.public)
    assert read_trusted_keys(str(tmp_path / "b.pem")) == (first.public,)
    assert read_trusted_keys([tmp_path / "b.pem", str(tmp_path / "a.pem")]) == (first.public, second.public)


@pytest.mark.parametrize("name", ["elliptic", "exchange", "private", "raw", "der", "two", "cut", "empty", "large"])
def test_anything_else_is_refused_by_name(name: str, tmp_path: Path) -> None:
    Pair(1).write_pem(tmp_path / "good.pem")
    (tmp_path / f"{name}.pem").write_bytes(other_pem(name))
    with pytest.raises(ConfigError, match=rf"{name}\.pem' is (not one Ed25519 public key|larger than)"):
        read_trusted_keys(tmp_path / f"{name}.pem")
    with pytest.raises(ConfigError, match=rf"{name}\.pem"):
        read_trusted_keys([tmp_path])


def test_places_that_hold_no_key(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    with pytest.raises(ConfigError, match="no trusted key was named"):
        read_trusted_keys([])
    with pytest.raises(ConfigError, match=r"the folder '.*' holds no \*\.pem file"):
        read_trusted_keys(tmp_path)
    with pytest.raises(ConfigError, match=r"no such file: '.*gone\.pem'"):
        read_trusted_keys(tmp_path / "gone.pem")


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX file system")
@pytest.mark.timeout(20)
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    os.mkfifo(tmp_path / "pipe.pem")
    with pytest.raises(ConfigError, match=r"pipe\.pem' is a named pipe"):
        read_trusted_keys(tmp_path)


def test_the_environment_names_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIGC_TRUSTED_KEYS", raising=False)
    assert environment_keys() is None
    first, second = Pair(1), Pair(2)
    (tmp_path / "more").mkdir()
    paths = [str(first.write_pem(tmp_path / "a.pem")), str(second.write_pem(tmp_path / "more" / "b.pem").parent)]
    monkeypatch.setenv("AIGC_TRUSTED_KEYS", os.pathsep.join(paths))
    assert environment_keys() == (first.public, second.public)


@pytest.mark.parametrize("value", ["", os.pathsep, f"a.pem{os.pathsep}"])
def test_an_environment_that_names_nothing_does_not_switch_the_check_off(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIGC_TRUSTED_KEYS", value)
    with pytest.raises(ConfigError, match=r"AIGC_TRUSTED_KEYS is '.*', with an empty path in it"):
        environment_keys()


def test_a_missing_package_gives_its_install_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(EngineMissingError) as caught:
        read_trusted_keys(tmp_path / "a.pem")
    assert caught.value.hint == "pip install 'aigc-runtime[verify]'"
