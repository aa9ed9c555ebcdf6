"""What the files of a vision-language checkpoint say about it, read without any model library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def has_moondream_vocabulary(folder: Path) -> bool:
    """Does the folder hold Moondream's own tokenizer? Its repositories often hold a stale GPT-2 one."""
    try:
        tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        vocabulary = dict(tokenizer["model"]["vocab"])
        vocabulary |= {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    except (OSError, ValueError, LookupError, TypeError):
        return False
    # Moondream's hard-coded ids: 0 begins and ends a text. GPT-2 has 50256 there.
    return vocabulary.get("<|endoftext|>") == 0


def context_length(config: dict[str, Any]) -> int | None:
    """How many tokens the model can hold, by its config.json; None: it doesn't say."""
    for section in (config, config.get("text_config") or {}):
        length = section.get("max_position_embeddings")
        if isinstance(length, int) and length > 0:
            return length
    return None


def control_tokens(tokenizer: Any) -> list[str]:
    """The strings that *tokenizer* would read as control tokens inside a user's text."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = {token.content for token in added.values() if token.special}
    return sorted(special | set(getattr(tokenizer, "all_special_tokens", [])))
