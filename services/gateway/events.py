"""Server-sent events: those of a source read, ours written."""

import json
from typing import Any

DONE = "data: [DONE]\n\n"
_PREFIX = "data: "


def event(name: str, data: dict[str, Any]) -> str:
    """A named event with JSON data."""
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


def data_event(data: dict[str, Any]) -> str:
    """An event as OpenAI's streams have them."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


def chunk_of(text: str) -> dict[str, Any] | None:
    """The JSON of an event of a source's stream; None for the one that ends it."""
    body = text.removeprefix(_PREFIX).strip()
    if not body or body == "[DONE]":
        return None
    chunk: dict[str, Any] = json.loads(body)
    return chunk


def delta_of(choice: dict[str, Any]) -> str:
    """The new text of a choice of a chat or a completion."""
    return str((choice.get("delta") or {}).get("content") or choice.get("text") or "")
