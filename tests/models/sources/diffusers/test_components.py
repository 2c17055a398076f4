"""A pipeline's index: which components are read, passed over or refused; and JSON that is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aigc_models.sources.diffusers.components import component_folder, named_components, pipeline_of, read_json
from aigc_runtime.errors import CheckpointError

CLASSES = {"unet": ("A", "B"), "vae": ("C",)}
INDEX: dict[str, Any] = {"_class_name": "P", "unet": ["lib", "B"], "vae": ["lib", "C"]}


def test_classes_of_components() -> None:
    wanted = {"unet": "B", "vae": "C"}
    passed = {"checker": ["lib", "X"], "extra": [None, None], "flag": False, "none": None}
    assert named_components(INDEX, CLASSES, ignored=(), kind="P") == wanted
    assert named_components({**INDEX, **passed}, CLASSES, ignored=("checker",), kind="P") == wanted


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checker": ["lib", "X"]}, "the component 'checker' is not known\na P has unet, vae"),
        ({"flag": True}, "the component 'flag' is not known"),
        ({"vae": [None, None]}, "names no vae"),
        ({"vae": ["lib", "D"]}, "vae is .*'D'.*not supported\nsupported: C"),
        ({"vae": "C"}, "vae is 'C'"),
        ({"vae": ["lib", ["C"]]}, "vae is "),
    ],
)
def test_what_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        named_components({**INDEX, **changes}, CLASSES, ignored=(), kind="P")


def test_files(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps(INDEX))
    (tmp_path / "unet").mkdir()
    assert pipeline_of(tmp_path) == ("P", INDEX)
    assert component_folder(tmp_path, "unet") == tmp_path / "unet"
    assert component_folder(tmp_path, "vae") == tmp_path
    (tmp_path / "a.json").write_bytes(b'{"lambda_min_clipped": -Infinity}')
    assert read_json(tmp_path / "a.json") == {"lambda_min_clipped": None}
    for content in (b'{"other": -Infinity}', b"[1]", b"{"):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"a\.json"):
            read_json(tmp_path / "a.json")
    (tmp_path / "model_index.json").write_text('{"_class_name": 3}')
    assert pipeline_of(tmp_path)[0] == ""
