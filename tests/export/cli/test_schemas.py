"""Every document that --json prints, and the report, is of the form that docs/schemas holds for it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jsonschema
import numpy as np
import pytest

from aigc_export.cli import VERBS, run
from aigc_export.line.exporter import ExportResult
from aigc_models.sources.shipped import MODELS
from aigc_runtime.cli.main import run as run_on_device

from ...runtime import tensor_toys, toys

pytestmark = pytest.mark.usefixtures("capture_once")
Capture = pytest.CaptureFixture[str]
FOLDER = Path(__file__).parents[3] / "docs" / "schemas"
QUICK = ["--quality-samples", "0", "--threads", "1"]
TIMED = ["--rounds", "1", "--runs", "1", "--threads", "1"]


def schema_of(name: str) -> dict[str, Any]:
    found = json.loads((FOLDER / f"{name.replace('/', '-')}.json").read_text())
    assert isinstance(found, dict)
    return found


def check(document: dict[str, Any]) -> None:
    """Raise unless the document is of its schema, and holds nothing on the first level that the schema has not."""
    schema = schema_of(document["schema"])
    jsonschema.validate(document, schema, cls=jsonschema.Draft202012Validator)
    assert document.keys() <= schema["properties"].keys(), document["schema"]


def printed(capsys: Capture, program: str, *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    code = (run if program == "aigc-export" else run_on_device)([*arguments, "--json"])
    told = capsys.readouterr()
    assert code in (0, 3, 5), told.err
    document = json.loads(told.out)
    assert isinstance(document, dict)
    return document


def on_a_device(bundles: Path, capsys: Capture) -> Iterator[dict[str, Any]]:
    for name in ("gan", "unet", "lm"):
        bundle = str(bundles / name)
        yield printed(capsys, "aigc-run", "info", bundle)
        yield printed(capsys, "aigc-run", "verify", bundle, "--threads", "1")
        yield printed(capsys, "aigc-run", "bench", bundle, "--runs", "1", "--threads", "1")
        yield printed(capsys, "aigc-run", "doctor", bundle)
    yield printed(capsys, "aigc-run", "doctor")
    yield printed(capsys, "aigc-run", "generate", str(bundles / "lm"), "--prompt", "a", "--max-new-tokens", "2")
    chat = str(toys.write_chat_bundle(bundles / "chat"))
    yield printed(capsys, "aigc-run", "generate", chat, "--chat", "a", "--max-new-tokens", "2", "--logprobs", "2")
    with mock.patch("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a\nb\n"))):
        yield printed(capsys, "aigc-run", "chat", chat, "--max-new-tokens", "2")
    arrays = [f"{name}={bundles / f'{name}.npy'}" for name in tensor_toys.INPUTS]
    for name, array in tensor_toys.INPUTS.items():
        np.save(bundles / f"{name}.npy", array)
    inputs = [word for text in arrays for word in ("--input", text)]
    tensors = str(tensor_toys.write(bundles))
    yield printed(capsys, "aigc-run", "info", tensors)
    yield printed(capsys, "aigc-run", "generate", tensors, *inputs, "-o", str(bundles / "x.npz"))
    for suffix in ("png", "npy"):
        yield printed(capsys, "aigc-run", "generate", str(bundles / "gan"), "-o", str(bundles / f"x.{suffix}"))


def on_the_host(bundles: Path, checkpoints: Path, folder: Path, capsys: Capture) -> Iterator[dict[str, Any]]:
    gan, lm, own = str(bundles / "gan"), str(bundles / "lm"), ["--checkpoint", str(checkpoints / "gan")]
    sampled = ["--calibration-samples", "16", "--threads", "1", *own]

    def host(*arguments: str) -> dict[str, Any]:
        return printed(capsys, "aigc-export", *arguments)

    yield host("models")
    yield host("calibrate", "gan", "-o", str(folder / "c.npz"), *sampled)
    yield host("sensitivity", "gan", *sampled)
    report = ["--report", str(folder / "r.json")]
    for precision, more in (("fp32", own), ("int8-weight", sampled)):
        yield host("export", "gan", "-o", str(folder / precision), "--precision", precision, *more, *QUICK[:2], *report)
        yield json.loads((folder / "r.json").read_text())
    yield host("keygen", "-o", str(folder / "keys"))
    yield host("sign", gan, "--key", str(folder / "keys" / "private.pem"))
    yield host("verify", gan, *own, *QUICK)
    yield host("verify", lm, "--checkpoint", str(checkpoints / "lm"), "--quality-samples", "2", "--threads", "1")
    yield host("verify", gan, *own, *QUICK, "--tolerance", "min_sqnr_db=399", "--bisect", *report)
    yield json.loads((folder / "r.json").read_text())
    assert run(["verify", str(folder / "gone"), *report]) == 4
    yield json.loads((folder / "r.json").read_text())
    yield host("bench", gan, *own, *TIMED)
    yield host("compare", gan, str(folder / "int8-weight"), *TIMED, "--quality-samples", "2", "--max-size", "1")
    yield host("inspect", str(folder / "int8-weight"))
    yield host("inspect", lm)
    yield from (host("inspect", model) for model in ("lm", "gan", "nothing.py:here"))
    yield host("doctor")
    yield host("check", gan, "--device", "rtx-3060")


def test_what_every_verb_prints(copies: Path, checkpoints: Path, tmp_path: Path, capsys: Capture) -> None:
    seen = set()
    for document in (*on_a_device(copies, capsys), *on_the_host(copies, checkpoints, tmp_path, capsys)):
        check(document)
        seen.add(document["schema"])
    # Those that take longer are below, and those of upscalers, of pictures from texts and of other runtimes beside
    # their verbs.
    later = {
        "aigc-export-bench-against/1",
        "aigc-export-train/1",
        "aigc-export-demo/1",
        "aigc-run-generate-upscale/1",
        "aigc-run-generate-pictures/1",
    }
    assert seen | later == {json.loads(path.read_text())["$id"] for path in FOLDER.glob("*.json")}
    assert {f"aigc-export-{verb}/1" for verb in VERBS if verb not in ("generate", "chat")} <= seen | later


@pytest.mark.slow
def test_what_training_and_the_demo_print(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    check(printed(capsys, "aigc-export", "train", "classifier", "-o", str(tmp_path / "c"), "--steps", "1"))
    monkeypatch.setattr("aigc_models.sources.shipped.MODELS", {"gan": MODELS["gan"]})
    check(printed(capsys, "aigc-export", "demo", "-o", str(tmp_path / "demo"), "--quality-samples", "2"))


def test_a_schema_can_fail(results: dict[str, ExportResult], capsys: Capture) -> None:
    document = printed(capsys, "aigc-run", "bench", str(results["gan"].bundle.path), "--runs", "1", "--threads", "1")
    check(document)
    for wrong in ({**document, "step": None}, {k: v for k, v in document.items() if k != "generation"}):
        with pytest.raises(jsonschema.ValidationError):
            check(wrong)
    with pytest.raises(AssertionError):
        check({**document, "stranger": 1})


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_a_schema_is_one(path: Path) -> None:
    schema = json.loads(path.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$id"].replace("/", "-") == path.stem
    assert schema["properties"]["schema"] == {"const": schema["$id"]}
    assert set(schema["required"]) <= schema["properties"].keys()
    assert schema["title"]
