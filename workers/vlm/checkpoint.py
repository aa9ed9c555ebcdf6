"""Reads facts about a vision-language checkpoint from its files, without any model library."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from workers.engine import Sampling
from workers.vlm.tool_calls import TAGS

log = logging.getLogger(__name__)

_GREEDY_BELOW = 1e-3  # Qwen2.5-VL has 0.000001 and means 0
# The fields of ``engine.Sampling`` that are taken from generation_config.json, and their valid values.
_SAMPLING: Mapping[str, Callable[[float], bool]] = MappingProxyType(
    {
        "temperature": lambda value: value >= 0,
        "top_p": lambda value: 0 < value <= 1,
        "top_k": lambda value: value >= 0 and value == int(value),
        "min_p": lambda value: 0 <= value <= 1,
        "repetition_penalty": lambda value: value > 0,
    }
)


def has_moondream_vocabulary(folder: Path) -> bool:
    """Whether *folder* has Moondream's own tokenizer. Its repositories often have a stale GPT-2 one."""
    try:
        tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        vocabulary = dict(tokenizer["model"]["vocab"])
        vocabulary |= {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    except (OSError, ValueError, LookupError, TypeError):
        return False
    # In Moondream, id 0 is hard-coded as BOS and EOS. GPT-2 has 50256.
    return vocabulary.get("<|endoftext|>") == 0


def context_length(config: dict[str, Any]) -> int | None:
    """The model's context length in tokens, from its config.json. None if it has none."""
    for section in (config, config.get("text_config") or {}):
        length = section.get("max_position_embeddings")
        if isinstance(length, int) and length > 0:
            return length
    return None


def read_sampling_defaults(folder: Path) -> dict[str, float]:
    """The sampling defaults in generation_config.json of *folder*. An unreadable file has none."""
    try:
        config = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
        return sampling_defaults(config)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as exc:
        log.warning("generation_config.json in %s is ignored: %s", folder, exc)
        return {}


def sampling_defaults(config: Mapping[str, Any]) -> dict[str, float]:
    """The fields of ``engine.Sampling`` that a generation_config.json sets, with mlx-vlm's meaning:
    ``do_sample: false`` is greedy."""
    found: dict[str, float] = {}
    for name, usable in _SAMPLING.items():
        value = config.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        if math.isfinite(value) and usable(value):
            found[name] = int(value) if name == "top_k" else float(value)
    if config.get("do_sample") is False or found.get("temperature", 1.0) < _GREEDY_BELOW:
        found["temperature"] = 0.0
    return found


def with_defaults(sampling: Sampling, unset: Iterable[str], defaults: Mapping[str, float]) -> Sampling:
    """*sampling* with its *unset* fields taken from *defaults*, where *defaults* has them."""
    found: dict[str, Any] = {name: defaults[name] for name in unset if name in defaults}
    return replace(sampling, **found)


def control_tokens(tokenizer: Any) -> list[str]:
    """The strings that *tokenizer* would parse as control tokens inside a user's text.

    Without the tool call tags, which ``workers.vlm.tool_calls`` writes into the texts itself.
    """
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = {token.content for token in added.values() if token.special}
    return sorted(special.union(getattr(tokenizer, "all_special_tokens", [])) - set(TAGS))
