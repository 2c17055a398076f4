from __future__ import annotations

import pytest

from aigc_export.peers.catalog import PEERS, parse_contestants, parse_named
from aigc_runtime.errors import ConfigError


def test_words_are_read() -> None:
    found = parse_contestants("genai, llama:q8_0,genai:int8")
    assert [one.name for one in found] == ["genai:int4", "llama:q8_0", "genai:int8"]
    assert all(peer.engine.is_file() for peer in PEERS.values())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("vllm", "'vllm' is no runtime"),
        ("", "'' is no runtime"),
        ("genai:int3", "no form 'int3'"),
        ("genai,genai:int4", "genai:int4 twice"),
    ],
)
def test_words_that_are_refused(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse_contestants(text)


def test_paths_are_read() -> None:
    assert parse_named("--peer-source", ("llama=a=b.gguf", "genai=c")) == {"llama": "a=b.gguf", "genai": "c"}
    for bad in ("llama", "llama=", "x=y"):
        with pytest.raises(ConfigError, match="is not a runtime and a path"):
            parse_named("--peer-source", (bad,))
    with pytest.raises(ConfigError, match="names llama twice"):
        parse_named("--peer-source", ("llama=a", "llama=b"))
