"""What an export, or a key, is told before the work: open keys, signatures that will be missing, disks without room."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from aigc_export.cli import run
from aigc_export.line.disk_space import check_space, engine_bytes
from aigc_export.line.signing import load_signer, make_keys, signature_warnings
from aigc_export.prepare import prepare as front
from aigc_models.families.unet import UNet
from aigc_models.weights.checkpoint import save_checkpoint
from aigc_models.weights.stored_weights import StoredWeights
from aigc_runtime.errors import OutputError
from aigc_runtime.generation.schedules import ScheduleConfig
from aigc_runtime.io.jsonable import to_json

from ..cli.test_group import export_arguments
from ..conftest import tiny_unet

pytestmark = pytest.mark.usefixtures("capture_once")
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("AIGC_TRUSTED_KEYS", raising=False)
    pytest.importorskip("cryptography")
    make_keys(tmp_path / "keys")
    return tmp_path / "keys"


def test_a_key_that_others_can_read(
    keys: Path, copies: Path, checkpoints: Path, tmp_path: Path, capsys: Capture
) -> None:
    private = keys / "private.pem"
    sign = ["sign", str(copies / "gan"), "--key", str(private)]
    assert run(sign) == 0
    assert capsys.readouterr().err == ""
    private.chmod(0o640)
    assert run([*sign, "--json"]) == 0
    printed = capsys.readouterr()
    text = f"the private key {str(private)!r} is open to others (mode 0640): `chmod 600` it, or make another"
    assert printed.err == f"warning: {text}\n"
    assert json.loads(printed.out)["warnings"] == [text]
    assert run(export_arguments("gan", checkpoints, tmp_path / "out", "--sign-key", str(private), "--json")) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == [text]
    assert run(["keygen", "-o", str(tmp_path / "more"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == []


def test_a_signature_that_will_be_missing(
    keys: Path, copies: Path, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    signer = load_signer(keys / "private.pem")
    assert signature_warnings(copies / "gan", None) == ()
    assert run(["sign", str(copies / "gan"), "--key", str(keys / "private.pem")]) == 0
    assert signature_warnings(copies / "gan", signer) == ()
    capsys.readouterr()
    assert run(export_arguments("gan", checkpoints, copies / "gan")) == 0
    assert "is signed, and what replaces it will not be" in " ".join(capsys.readouterr().out.split())
    assert not (copies / "gan" / "manifest.sig").exists()

    monkeypatch.setenv("AIGC_TRUSTED_KEYS", str(keys / "public.pem"))
    (found,) = signature_warnings(copies / "gan", None)
    assert "AIGC_TRUSTED_KEYS is set, and the bundle will not be signed" in found
    assert signature_warnings(copies / "gan", signer) == ()
    make_keys(tmp_path / "other")
    (found,) = signature_warnings(copies / "gan", load_signer(tmp_path / "other" / "private.pem"))
    assert "is not among those that AIGC_TRUSTED_KEYS names" in found
    monkeypatch.setenv("AIGC_TRUSTED_KEYS", str(tmp_path / "nothing.pem"))
    (found,) = signature_warnings(copies / "gan", signer)
    assert "no bundle will be opened" in found


def test_room_is_asked_for_before_the_work(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    weights = StoredWeights(checkpoints / "gan" / "model.safetensors").float32_bytes
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=weights - 1))
    monkeypatch.setattr("aigc_export.line.exporter.prepare_parts", lambda *_: pytest.fail("the work began"))
    assert run(export_arguments("gan", checkpoints, tmp_path / "new" / "out")) == 6
    errors = capsys.readouterr().err
    assert f"has {weights - 1:,} bytes free, and at least {weights:,} are needed" in errors
    assert list(tmp_path.iterdir()) == []


def test_room_for_an_engine_and_its_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 bytes of weights: 125 in 4 bits, among the temporary files and in the bundle, here on one disk."""
    assert [engine_bytes(1000, p) for p in ("fp32", "fp16", "int8", "int4", "auto")] == [1000, 500, 250, 125, 125]
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    for free, fits in ((249, False), (250, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        if fits:
            check_space(tmp_path / "out", 125)
        else:
            with pytest.raises(OutputError, match=r"has 249 bytes free, and at least 250 are needed"):
                check_space(tmp_path / "out", 125)


def test_room_for_the_float_graph_of_a_quantized_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 bytes of weights lie among the temporary files while an engine of 125 is made of them."""
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    for free, fits in ((999, False), (1000, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        if fits:
            check_space(tmp_path / "out", 125, graph_bytes=1000)
        else:
            with pytest.raises(OutputError, match=r"has 999 bytes free, and at least 1,000 are needed"):
                check_space(tmp_path / "out", 125, graph_bytes=1000)


def test_no_place_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", nowhere)
    with pytest.raises(OutputError, match="no folder for temporary files"):
        check_space(tmp_path / "out", 1)


def test_a_model_that_pytorch_cannot_generate_with_is_refused_before_it_is_captured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Of an untrained network, half of the variances that it learned are below zero."""
    monkeypatch.setattr(front, "capture", lambda *_, **__: pytest.fail("it was captured"))
    config = replace(tiny_unet().config, in_channels=1, out_channels=2, num_class_embeds=None, null_class=None)
    schedule = ScheduleConfig(num_train_timesteps=10, variance_type="learned")
    torch.manual_seed(0)
    record = {"family": "unet", "model": config.to_dict(), "schedule": to_json(schedule)}
    save_checkpoint(tmp_path / "learned", UNet(config), record)
    arguments = ["export", "unet", "--checkpoint", str(tmp_path / "learned"), "-o", str(tmp_path / "out")]
    assert run([*arguments, "--quality-samples", "0", "--threads", "1"]) == 2
    assert "PyTorch cannot generate with this model: the model gives a variance below zero" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
