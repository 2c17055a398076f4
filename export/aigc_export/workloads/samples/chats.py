"""Render the chats of a jsonl file as the model's own template has it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from aigc_models.data.documents import Render
from aigc_runtime.generation.chat import ChatTemplate
from aigc_runtime.pipelines.settings import TextSettings

__all__ = ["chat_render"]

NOW = datetime.datetime(2026, 1, 1)
"""What templates take for today: the same text every day."""


def chat_render(settings: TextSettings, assets: Mapping[str, bytes] | None) -> Render | None:
    """Make what renders whole chats; None for a model without a chat template. It is read when it is first needed.

    Args:
        settings: of the model's pipeline.
        assets: files of its program.
    """
    info = settings.chat
    if info is None or assets is None:
        return None

    @cache
    def template() -> ChatTemplate:
        return ChatTemplate.of(info, assets)

    def render(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None) -> str:
        return template().render(messages, tools=tools, add_generation_prompt=False, now=NOW)

    return render
