"""The runtimes that a language model's bundle can be timed against, and the words that ask for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aigc_runtime.errors import ConfigError

__all__ = ["ENGINES", "PEERS", "Contestant", "Peer", "parse_contestants", "parse_named"]


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A runtime.

    Attributes:
        name: that asks for it.
        title: its own name.
        engine: file that runs it.
        install: what installs it, in a Python of its own or in this one.
        forms: number formats of its models; the first is built where none is asked for.
        suffix: end of the name of the file that its models are built from; empty: they are built from a folder of
            transformers.
    """

    name: str
    title: str
    engine: Path
    install: str
    forms: tuple[str, ...]
    suffix: str = ""


ENGINES = Path(__file__).parent / "engines"

PEERS: Mapping[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer(
            name="genai",
            title="onnxruntime-genai",
            engine=ENGINES / "genai.py",
            install="pip install onnxruntime-genai onnx-ir transformers torch",
            forms=("int4", "k_quant_mixed", "int8", "fp32"),
        ),
        Peer(
            name="llama",
            title="llama.cpp",
            engine=ENGINES / "llama_cpp_engine.py",
            install="pip install llama-cpp-python",
            forms=("gguf", "q8_0", "q4_0", "q4_k_m"),
            suffix=".gguf",
        ),
        Peer(
            name="openvino",
            title="OpenVINO",
            engine=ENGINES / "openvino_engine.py",
            install="pip install optimum-intel[openvino]",
            forms=("int8", "int4", "fp32"),
        ),
        Peer(
            name="torch",
            title="PyTorch eager",
            engine=ENGINES / "torch_eager.py",
            install="pip install torch transformers",
            forms=("fp32", "bf16"),
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A runtime with a model in one form."""

    peer: Peer
    form: str

    @property
    def name(self) -> str:
        """As it is asked for: `genai:int4`."""
        return f"{self.peer.name}:{self.form}"


def parse_contestants(text: str) -> tuple[Contestant, ...]:
    """Read `genai,llama:q8_0`: names of runtimes, each with a form behind a colon or in its default form.

    Raises:
        ConfigError: an unknown runtime or form, or one twice.
    """
    found: list[Contestant] = []
    for word in text.split(","):
        name, _, form = word.strip().partition(":")
        if name not in PEERS:
            raise ConfigError(f"--against {name!r} is no runtime that is known here", hint=f"known: {', '.join(PEERS)}")
        peer = PEERS[name]
        if form and form not in peer.forms:
            raise ConfigError(f"--against {name}: it has no form {form!r}", hint=f"known: {', '.join(peer.forms)}")
        one = Contestant(peer=peer, form=form or peer.forms[0])
        if one in found:
            raise ConfigError(f"--against names {one.name} twice", hint="name it once")
        found.append(one)
    return tuple(found)


def parse_named(option: str, values: Sequence[str]) -> dict[str, str]:
    """Read values such as `llama=model.gguf`: runtime -> path.

    Args:
        option: of the command line, for errors.
        values: of it.

    Raises:
        ConfigError: an unknown runtime, one twice, or no path.
    """
    found: dict[str, str] = {}
    for value in values:
        name, _, path = value.partition("=")
        if name not in PEERS or not path:
            raise ConfigError(
                f"{option} {value!r} is not a runtime and a path", hint=f"write NAME=PATH, of {', '.join(PEERS)}"
            )
        if name in found:
            raise ConfigError(f"{option} names {name} twice", hint="name it once")
        found[name] = path
    return found
