"""A checkpoint's sampling defaults in generation_config.json, with mlx-vlm's meaning."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from workers.engine import Sampling
from workers.vlm.checkpoint import read_sampling_defaults, sampling_defaults, with_defaults

NAMES = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
QWEN3 = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05}


def test_its_values_apply_to_fields_that_the_client_did_not_send() -> None:
    defaults = sampling_defaults(QWEN3)
    sent = Sampling(temperature=1.0, top_p=1.0, seed=7)
    for unset, expected in (
        (NAMES, (0.7, 0.8, 20, 0.0, 1.05)),
        (("top_p",), (1.0, 0.8, 0, 0.0, 1.0)),
        ((), (1.0, 1.0, 0, 0.0, 1.0)),
    ):
        sampling = with_defaults(sent, unset, defaults)
        assert tuple(getattr(sampling, name) for name in NAMES) == expected
        assert sampling.seed == 7


def test_a_checkpoint_that_does_not_sample_is_greedy() -> None:
    assert sampling_defaults({"do_sample": False, "temperature": 0.7, "top_k": 5}) == {
        "temperature": 0.0,
        "top_k": 5,
    }
    assert sampling_defaults({"temperature": 1e-06}) == {"temperature": 0.0}  # Qwen2.5-VL


def test_missing_and_invalid_values_are_ignored() -> None:
    nothing: dict[str, Any] = {"_from_model_config": True, "transformers_version": "4.44.0"}
    wrong = {"temperature": "hot", "top_p": 0, "top_k": -1, "min_p": 2, "repetition_penalty": 0}
    odd = {"temperature": True, "top_p": None, "top_k": 1.5, "min_p": float("nan"), "do_sample": None}
    for config in (nothing, {}, wrong, odd):
        assert sampling_defaults(config) == {}


def test_a_missing_or_broken_file_is_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_sampling_defaults(tmp_path) == {}
    file = tmp_path / "generation_config.json"
    with caplog.at_level(logging.WARNING):
        for text in ("{", "[]", '"x"'):
            file.write_text(text)
            assert read_sampling_defaults(tmp_path) == {}
    assert caplog.text.count("generation_config.json") >= 3
    file.write_text(json.dumps(QWEN3))
    assert read_sampling_defaults(tmp_path)["top_k"] == 20
