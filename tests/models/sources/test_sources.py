"""What a name stands for: a shipped model, a folder, a function, a third party's source; and every refusal."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from aigc_models import sources
from aigc_models.families.gan import Generator, GeneratorConfig
from aigc_models.program import Part, Program
from aigc_models.sources import Found, outline, resolve
from aigc_models.sources.function import names_function
from aigc_models.weights.checkpoint import save_checkpoint
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import TensorSpec
from aigc_runtime.errors import AigcError, CheckpointError, ConfigError, UnknownNameError

GOOD = """
from torch import nn
from beside import WIDTH
from aigc_models.program import Part, Program
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import TensorSpec

number = 3

def make_program():
    x = TensorSpec(name="x", dtype="float32", shape=(WIDTH,))
    y = TensorSpec(name="y", dtype="float32", shape=(WIDTH,))
    part = Part(module=nn.Identity(), interface=Interface(inputs=(x,), outputs=(y,)))
    return Program(name="mine", kind="tensors", parts={"model": part}, settings=None)

def gives_module():
    return nn.Linear(1, 1)

def gives_nothing():
    pass

def wants(argument):
    return make_program()

def raises():
    raise LookupError("no weights")  # here

def leaves():
    raise SystemExit(3)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "my models").mkdir()
    (tmp_path / "my models" / "beside.py").write_text("WIDTH = 5\n")
    path = tmp_path / "my models" / "mine_test.py"
    path.write_text(GOOD)
    return path


def test_a_function_of_a_file(file: Path) -> None:
    before = list(sys.path)
    program = resolve(f"{file}:make_program")
    assert (program.name, program.source) == ("mine", f"{file}:make_program")
    assert program.part.interface.inputs[0].shape == (5,)
    assert sys.path == before


def test_a_function_of_a_module(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(file.parent))
    assert resolve("mine_test:make_program").name == "mine"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("{}:make_programs", "unknown function in .*mine_test.py 'make_programs'(.|\n)*make_program"),
        ("{}:number", "'number' in .*mine_test.py is an int\nname a function"),
        ("{}:gives_module", "gives_module returned a Linear\nreturn the program of a module"),
        ("{}:gives_nothing", "gives_nothing returned None"),
        ("{}:wants", "wants raised TypeError: wants\\(\\) missing 1 required positional argument"),
        ("{}:raises", "raises raised LookupError: no weights at .*mine_test.py:26: raise LookupError"),
        ("{}:leaves", "leaves raised SystemExit: 3 at .*mine_test.py:29"),
        ("{}x:make_program", "no file .*mine_test.pyx'"),
        ("nowhere/mine.py:make_program", "no file 'nowhere/mine.py' \\(looked in"),
        ("no.such.module:make", "no Python module 'no.such.module' was found"),
        ("no such:make", "no Python module 'no such' was found"),
        ("json:dumps", "json:dumps raised TypeError"),
        ("{}", "'.*mine_test.py' is a Python file\nname a function in it: .*mine_test.py:make_program"),
    ],
)
def test_functions_that_make_no_program(name: str, sentence: str, file: Path) -> None:
    with pytest.raises((ConfigError, UnknownNameError), match=sentence):
        resolve(name.format(file))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("def make_program(:\n", "broken.py raised SyntaxError: .* at .*broken.py:1"),
        ("import not_installed_anywhere\n", "broken.py raised ModuleNotFoundError: No module named 'not_installed"),
        ("x = 1 / 0\n", "broken.py raised ZeroDivisionError: division by zero at .*broken.py:1: x = 1 / 0"),
    ],
)
def test_a_file_that_cannot_be_imported_says_where(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        resolve(f"{path}:make_program")
    assert "broken" not in sys.modules


def test_a_function_takes_no_options(file: Path) -> None:
    with pytest.raises(ConfigError, match="cache means nothing to a function of your own"):
        resolve(f"{file}:make_program", options={"cache": "buffer", "checkpoint": None})


GAN = GeneratorConfig(image_size=8, latent_size=4, base_channels=4)


def test_a_folder_of_a_shipped_family(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "mine", Generator(GAN), {"family": "gan", "model": GAN.to_dict()})
    for named in (tmp_path / "mine", tmp_path / "mine" / "model.safetensors"):
        program = resolve(str(named))
        assert (program.name, program.kind, program.source) == ("gan", "gan", str(named))
    with pytest.raises(ConfigError, match="is a checkpoint already\nleave --checkpoint out"):
        resolve(str(tmp_path / "mine"), options={"checkpoint": "other"})
    with pytest.raises(UnknownNameError, match="unknown export option of 'gan' 'cache'"):
        resolve(str(tmp_path / "mine"), options={"cache": "buffer"})


@pytest.mark.parametrize("family", [[], {"gan": 1}, 3, True])
def test_a_family_of_no_name_is_none(family: object, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"family": family, "model": {}}))
    for ask in (resolve, outline):
        with pytest.raises(CheckpointError, match="which no source can load"):
            ask(str(tmp_path))


def test_a_shipped_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gan").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve("gan").source == ""
    with pytest.raises(CheckpointError, match=r"'\./gan' has no config.json, which no source can load"):
        resolve("./gan")


def test_what_nobody_can_load(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown model 'gann'(.|\n)*gan"):
        resolve("gann")
    for text, sentence in (
        ('{"model_type": "llamma"}', "is of the architecture 'llamma', which is not known(.|\n)*nearest is 'llama'"),
        ('{"_class_name": "Unet"}', "is of kind 'Unet', which no source can load"),
        ("{}", "names no model"),
        ("[]", "is not a JSON object"),
        ("{", "config.json"),
    ):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(AigcError, match=sentence):
            resolve(str(tmp_path))


class Toy:
    """A source of folders whose config.json says `toy`."""

    def matches(self, found: Found) -> bool:
        return found.config is not None and found.config.get("model_type") == "toy"

    def load(self, found: Found, options: Mapping[str, Any]) -> Program:
        x = TensorSpec(name="x", dtype="float32", shape=(1,))
        y = TensorSpec(name="y", dtype="float32", shape=(1,))
        part = Part(module=nn.Identity(), interface=Interface(inputs=(x,), outputs=(y,)))
        return Program(name="toy", kind="tensors", parts={"model": part}, settings=dict(options))


def test_a_third_partys_source_comes_in_by_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "toy"}')
    found = tmp_path / "toy-1.0.dist-info"
    found.mkdir()
    (found / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (found / "entry_points.txt").write_text("[aigc_export.sources]\ntoy = toy_source:SOURCE\n")
    (tmp_path / "toy_source.py").write_text(f"from {__name__} import Toy\nSOURCE = Toy()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert resolve(str(tmp_path / "model"), options={"size": 3}).settings == {"size": 3}
    (tmp_path / "toy_source.py").unlink()
    monkeypatch.delitem(sys.modules, "toy_source")
    with pytest.raises(ConfigError, match="the source 'toy' of 'toy_source:SOURCE' cannot be loaded: ModuleNotFound"):
        resolve(str(tmp_path / "model"))


@pytest.mark.parametrize("text", ["a.py:f", "a.b:f", r"C:\x.py:f"])
def test_what_names_a_function(text: str) -> None:
    assert names_function(text)


@pytest.mark.parametrize("text", ["lm", ":f", "a:", "a:1b", "hf:org/model"])
def test_what_names_none(text: str) -> None:
    assert not names_function(text)


def test_the_table_lists_our_own() -> None:
    assert list(sources.SOURCES) == [
        "shipped",
        "gguf",
        "folder",
        "transformers",
        "diffusers",
        "by_keys",
        "encoder",
        "function",
    ]
