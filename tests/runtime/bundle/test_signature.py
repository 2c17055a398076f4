"""manifest.sig: known answers of RFC 8032, every byte counts, and only the named keys are believed."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from aigc_runtime.bundle.signature import (
    PublicKey,
    Signature,
    dump_signature,
    ed25519_verifies,
    parse_signature,
    signed_message,
    verify_signature,
)
from aigc_runtime.errors import BundleError, ConfigError, EngineMissingError

from ..keys import Pair

MANIFEST = b'{"format": "aigc-bundle"}\n'

# RFC 8032, section 7.1, tests 1 to 3: public key, message, signature.
RFC_8032 = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
        "387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
        "4a7c15e9716ed28dc027beceea1ec40a",
    ),
]
# The key of test 1 over b"aigc-bundle-manifest-v1\n{}\n", by an implementation in plain Python after section 5.1.6.
GOLDEN = """{
  "format": "aigc-signature",
  "format_version": 1,
  "key_id": "21fe31dfa154a261",
  "signature": "d481ca72de86f385e1f2068a7c1521a4bb440c01f67f0e08416add525be62704\
3d43d569c87270cb1bc37cc528fc461fa6d201f023524f3adb8693fe477fb00c"
}
"""


@pytest.mark.parametrize(("key", "message", "signature"), RFC_8032)
def test_known_answers_of_rfc_8032(key: str, message: str, signature: str) -> None:
    pytest.importorskip("cryptography")
    raw, value, text = (bytes.fromhex(part) for part in (key, signature, message))
    assert ed25519_verifies(raw, value, text)
    assert not ed25519_verifies(raw, value, text + b"\0")
    assert not ed25519_verifies(raw, value[:-1], text)
    # The same R with S + L: another spelling of the signature, which the RFC refuses.
    large = int.from_bytes(value[32:], "little") + 2**252 + 27742317777372353535851937790883648493
    assert not ed25519_verifies(raw, value[:32] + large.to_bytes(32, "little"), text)


def test_the_bytes_of_a_signature_are_fixed() -> None:
    pytest.importorskip("cryptography")
    key = PublicKey(raw=bytes.fromhex(RFC_8032[0][0]))
    assert key.key_id == "21fe31dfa154a261"
    assert verify_signature(b"{}\n", GOLDEN.encode(), [key]) == key.key_id
    assert signed_message(b"{}\n") == b"aigc-bundle-manifest-v1\n{}\n"
    with pytest.raises(BundleError, match="does not belong to this manifest and key 21fe31dfa154a261"):
        verify_signature(b"{}", GOLDEN.encode(), [key])


def test_file_and_parsed_signature_correspond_one_to_one() -> None:
    parsed = parse_signature(GOLDEN.encode())
    assert (parsed.format, parsed.format_version, parsed.key_id) == ("aigc-signature", 1, "21fe31dfa154a261")
    assert dump_signature(parsed) == GOLDEN.encode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "aigc-bundle"}, "format is 'aigc-bundle'"),
        ({"format_version": 2}, "has format version 2, this runtime knows 1\nupdate aigc-runtime"),
        ({"format_version": 0}, "format_version is 0"),
        ({"format_version": True}, "format_version is a boolean"),
        ({"format_version": 1.0}, "format_version is the number 1.0"),
        ({"key_id": "21FE31DFA154A261"}, "key_id is '21FE31DFA154A261'"),
        ({"key_id": "21fe31dfa154a26"}, "key_id is"),
        ({"key_id": "21fe31dfa154a26\n"}, "key_id is"),
        ({"signature": "D4" * 64}, "signature is malformed"),
        ({"signature": "d4" * 63}, "signature is malformed"),
        ({"signature": 5}, "signature is the number 5"),
        ({"signature": None}, "signature is null"),
        ({"algorithm": "none"}, "algorithm is not a known field"),
    ],
)
def test_a_signature_is_parsed_strictly(change: dict[str, Any], message: str) -> None:
    data = (json.dumps({**json.loads(GOLDEN), **change}, indent=2) + "\n").encode()
    with pytest.raises(BundleError, match=message):
        parse_signature(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null\n",
        b"[]\n",
        GOLDEN.encode()[:-20],
        GOLDEN.encode()[:-1],
        GOLDEN.encode() + b"\n",
        b"\xef\xbb\xbf" + GOLDEN.encode(),
        GOLDEN.replace("  ", " ").encode(),
        GOLDEN.replace('"key_id"', '"key_id": "0000000000000000",\n  "key_id"').encode(),
        GOLDEN.replace("21fe", "\\u00321fe").encode(),
        json.dumps(dict(reversed(json.loads(GOLDEN).items())), indent=2).encode() + b"\n",
        GOLDEN.encode() + b" " * 4096,
    ],
)
def test_another_spelling_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"manifest\.sig"):
        parse_signature(data)


def test_no_changed_byte_verifies() -> None:
    pair = Pair(1)
    signature = pair.sign(MANIFEST)
    assert verify_signature(MANIFEST, signature, [pair.public]) == pair.public.key_id
    for at in range(len(MANIFEST)):
        for bit in range(8):
            with pytest.raises(BundleError):
                verify_signature(flipped(MANIFEST, at, bit), signature, [pair.public])
    for at in range(len(signature)):
        for bit in range(8):
            with pytest.raises(BundleError):
                verify_signature(MANIFEST, flipped(signature, at, bit), [pair.public])


def flipped(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def test_one_of_several_keys_is_enough_and_another_is_not() -> None:
    first, second, stranger = Pair(1), Pair(2), Pair(3)
    trusted = [first.public, second.public]
    for pair in (first, second):
        assert verify_signature(MANIFEST, pair.sign(MANIFEST), trusted) == pair.public.key_id
    with pytest.raises(
        BundleError, match=f"signed by key {stranger.public.key_id}, which is not trusted here"
    ) as caught:
        verify_signature(MANIFEST, stranger.sign(MANIFEST), trusted)
    assert first.public.key_id in caught.value.hint
    assert second.public.key_id in caught.value.hint


def test_a_borrowed_key_id_does_not_help() -> None:
    ours, stranger = Pair(1), Pair(3)
    forged = stranger.sign(MANIFEST, key_id=ours.public.key_id)
    with pytest.raises(BundleError, match=f"does not belong to this manifest and key {ours.public.key_id}"):
        verify_signature(MANIFEST, forged, [ours.public, stranger.public])
    with pytest.raises(BundleError, match="not trusted here"):
        verify_signature(MANIFEST, ours.sign(MANIFEST, key_id="0" * 16), [ours.public])


def test_a_signature_made_for_something_else_does_not_count() -> None:
    pair = Pair(1)
    for prefix in (b"", b"aigc-bundle-manifest-v2\n"):
        with pytest.raises(BundleError, match="does not belong"):
            verify_signature(MANIFEST, pair.sign(MANIFEST, prefix=prefix), [pair.public])


@pytest.mark.parametrize("keys", [(), [], ["public.pem"], "public.pem", [b"k" * 32]])
def test_what_is_no_list_of_keys(keys: Any) -> None:
    with pytest.raises(ConfigError, match=r"trusted_keys (is empty|holds something that is no key)"):
        verify_signature(MANIFEST, GOLDEN.encode(), keys)


def test_what_is_no_key_and_no_signature() -> None:
    with pytest.raises(ConfigError, match="a public key has 31 bytes"):
        PublicKey(raw=b"k" * 31)
    with pytest.raises(ConfigError, match="key_id is 'x'"):
        Signature(key_id="x", signature="0" * 128)


def test_a_missing_package_gives_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(EngineMissingError, match="signatures need the package cryptography") as caught:
        verify_signature(b"{}\n", GOLDEN.encode(), [PublicKey(raw=bytes.fromhex(RFC_8032[0][0]))])
    assert caught.value.hint == "pip install 'aigc-runtime[verify]'"
