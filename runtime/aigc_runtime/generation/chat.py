"""How a chat becomes a prompt: a template in the language of jinja, as a model's maker wrote it."""

from __future__ import annotations

from dataclasses import dataclass

from aigc_runtime.errors import ConfigError

__all__ = ["DEFAULT_TEMPLATE", "ChatInfo"]

DEFAULT_TEMPLATE = "default"
"""The template that is used where no other is named."""


@dataclass(frozen=True, kw_only=True)
class ChatInfo:
    """Which chat templates a model has.

    Attributes:
        templates: name -> file of the bundle; one of them is called `default`.
        special_tokens: what templates may write, by name, such as `bos_token`.
    """

    templates: dict[str, str]
    special_tokens: dict[str, str]

    def __post_init__(self) -> None:
        if DEFAULT_TEMPLATE not in self.templates:
            raise ConfigError(
                f"chat.templates has no {DEFAULT_TEMPLATE!r}", hint=f"it has: {', '.join(self.templates) or '(none)'}"
            )
