"""Every private or undocumented name of mlx-vlm 0.7.10 that the engine uses.

When one of these fails after an upgrade, its docstring says what the name is for and where it is used.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.mlx


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_its_wired_limit_is_not_on_our_path() -> None:
    """workers.backend.runtime wires nothing (mlx#3186). ``BatchGenerator`` would; its two halves do
    not."""
    from mlx_vlm.generate import ar, common  # noqa: TID251

    assert "mx.set_wired_limit(" in inspect.getsource(common.wired_limit)
    assert "wired_limit(" in inspect.getsource(ar.BatchGenerator)
    for ours in (ar.PromptProcessingBatch, ar.GenerationBatch):
        assert "wired" not in inspect.getsource(ours)
    used = {
        name
        for file in Path("workers").rglob("*.py")
        for name in ("BatchGenerator(", "stream_generate(", "batch_generate(", "wired_limit(model")
        if name in file.read_text()
    }
    assert used == set()


def test_a_prompt_clears_the_cache_after_each_chunk_through_the_name_mx_of_its_module() -> None:
    """workers.vlm.batch replaces that ``mx``. Once the library no longer clears, remove ours."""
    from mlx_vlm.generate import ar  # noqa: TID251

    assert "mx.clear_cache()" in inspect.getsource(ar.PromptProcessingBatch.prompt_step)
    assert "clear_cache" not in inspect.getsource(ar.GenerationBatch)
    assert hasattr(ar, "mx")


def test_moondreams_processor_reads_the_tokenizer_repository_from_its_module() -> None:
    """workers.vlm.engine sets ``TOKENIZER_REPO``. If it becomes a class attribute, set that."""
    import mlx_vlm.models.moondream2.processing_moondream2 as processing  # noqa: TID251

    source = inspect.getsource(processing.Moondream2Processor.from_pretrained)
    assert isinstance(processing.TOKENIZER_REPO, str)
    assert "TOKENIZER_REPO" in source


def test_moondreams_hard_coded_ids_are_ours() -> None:
    """workers.vlm.architectures.moondream builds the same prompts as the processor, also without
    images."""
    import mlx_vlm.models.moondream3.processing_moondream3 as processing  # noqa: TID251

    from workers.vlm.architectures import moondream

    assert (processing.ANSWER_ID, processing.BOS_ID) == (moondream.ANSWER_ID, 0)
    assert processing.NUM_VISION_TOKENS == moondream.IMAGE_TOKENS
    source = inspect.getsource(processing.Moondream3Processor.__call__)
    assert r'f"\n\nQuestion: {t}\n\nAnswer: "' in source


def test_moondream_builds_its_mask_and_drops_it() -> None:
    """workers.vlm.batch.Language passes it as ``mask``. Once the library does, remove ours."""
    from mlx_vlm.models.moondream2 import language, moondream2  # noqa: TID251

    source = inspect.getsource(moondream2.Model._create_prefix_attention_mask)
    assert "causal[:prefix_len, :prefix_len] = 0.0" in source
    call = language.LanguageModel.__call__
    assert {"mask", "inputs_embeds", "cache"} <= set(parameters(call))
    assert "attention_mask_4d" not in inspect.getsource(call)


def test_moondreams_features_are_joined_by_this_method() -> None:
    """workers.vlm.architectures.moondream replaces it: 729 separate means are slower than the tower."""
    from mlx_vlm.models.moondream2.vision import VisionModel  # noqa: TID251

    assert parameters(VisionModel._reconstruct_local_features) == [
        "self",
        "local_features",
        "layout",
    ]
    assert parameters(VisionModel.__call__)[1:] == ["pixel_values", "num_crops", "crop_layouts"]
    assert "self._reconstruct_local_features(" in inspect.getsource(VisionModel.__call__)


def test_moondreams_processor_takes_images_without_text() -> None:
    from mlx_vlm.models.moondream3 import processing_moondream3 as processing  # noqa: TID251

    source = inspect.getsource(processing.Moondream3Processor.__call__)
    assert "if text is not None" in source
    for key in ("pixel_values", "num_crops", "crop_layouts"):
        assert f'result["{key}"]' in source


def test_qwen_has_the_parts_that_prompts_are_built_from() -> None:
    """workers.vlm.architectures.templated.Qwen does what ``get_input_embeddings`` does, per image."""
    from mlx_vlm.models.qwen2_5_vl import language, qwen2_5_vl, vision  # noqa: TID251
    from mlx_vlm.models.qwen2_5_vl import processing_qwen2_5_vl as processing  # noqa: TID251

    assert parameters(language.LanguageModel.get_rope_index)[1:] == [
        "input_ids",
        "image_grid_thw",
        "video_grid_thw",
        "attention_mask",
    ]
    assert parameters(vision.VisionModel.__call__)[1:4] == [
        "hidden_states",
        "grid_thw",
        "output_hidden_states",
    ]
    source = inspect.getsource(qwen2_5_vl.Model.get_input_embeddings)
    for part in ("self.vision_tower(", "language_model.model.embed_tokens(", "patch_embed.proj"):
        assert part in source
    source = inspect.getsource(language.LanguageModel.__call__)
    for name in ("position_ids", "rope_deltas"):
        assert f'kwargs.pop("{name}", None)' in source
    source = inspect.getsource(processing.Qwen2_5_VLProcessor.__call__)
    assert "image_grid_thw[index].prod() // merge_length" in source


def test_a_tower_calls_its_blocks_one_after_the_other() -> None:
    """workers.vlm.prompt.encoder_stages replaces them, to record the output of each."""
    from mlx_vlm.models.moondream2.vision import VisionEncoder  # noqa: TID251
    from mlx_vlm.models.qwen2_5_vl.vision import VisionModel  # noqa: TID251

    assert "for block in self.blocks:" in inspect.getsource(VisionEncoder.__call__)
    assert "in enumerate(self.blocks):" in inspect.getsource(VisionModel.__call__)


def test_a_prompt_is_prefilled_in_chunks_through_these_names() -> None:
    """workers.vlm.batch.Batch uses ``PromptProcessingBatch`` (generate/ar.py) with one row."""
    from mlx_vlm.generate.ar import PromptProcessingBatch as Prompt  # noqa: TID251

    assert {
        "model",
        "uids",
        "input_ids",
        "max_tokens",
        "inputs_embeds",
        "prompt_kwargs",
        "kv_bits",
        "kv_group_size",
    } <= set(parameters(Prompt.__init__))
    assert parameters(Prompt.generate)[1:4] == ["sampler", "stop_criteria", "compute_logprobs"]
    source = inspect.getsource(Prompt)
    for name in ("_input_ids", "_processed_prompt_columns", "prefill_step_size", "prompt_cache"):
        assert f"self.{name}" in source
    # Each chunk has prefill_step_size tokens, looked up again for each, and leaves the last token.
    assert "step = self.prefill_step_size or" in inspect.getsource(Prompt.prompt_step)
    assert "min(step, self._inputs_embeds.shape[1] - 1)" in inspect.getsource(Prompt.prompt_step)


def test_position_ids_are_cut_into_chunks_with_the_prompt() -> None:
    from mlx_vlm.generate import ar  # noqa: TID251

    assert "position_ids" in ar._SEQUENCE_ALIGNED_PROMPT_KWARGS


def test_sequences_decode_through_these_names() -> None:
    """workers.vlm.batch.Batch ends rows itself, so ``next`` must not end any."""
    from mlx_vlm.generate.ar import GenerationBatch  # noqa: TID251

    assert parameters(GenerationBatch.filter) == ["self", "keep"]
    assert parameters(GenerationBatch.extend) == ["self", "other"]
    assert {"uid", "token"} <= set(GenerationBatch.Response.__dataclass_fields__)
    source = inspect.getsource(GenerationBatch.next)
    assert "if self.stop_criteria(tok)" in source
    assert ">= self.max_tokens[i]" in source
    source = inspect.getsource(GenerationBatch._step)
    # The model runs first, then the sampler is called once for all rows.
    assert source.index("self._language_model(") < source.index("_sample_with_positions(")
    assert source.count("_sample_with_positions(") == 1


def test_a_sampler_is_called_with_log_probabilities() -> None:
    """``_sample_with_positions`` would call a sampler with ``sample_target`` differently."""
    from mlx_vlm.generate import ar  # noqa: TID251

    from workers.vlm.sampler import RowSampler

    assert not hasattr(RowSampler, "sample_target")
    assert ar._sample_with_positions(lambda x: ("sampled", x), 1, row_ids=[0], positions=[0]) == (
        "sampled",
        1,
    )


def test_keys_and_values_of_a_row_are_where_we_read_and_write_them() -> None:
    """workers.vlm.batch ``layers_of`` and ``_fill`` (models/cache.py)."""
    import mlx.core as mx  # noqa: TID251
    from mlx_vlm.models.cache import BatchKVCache, BatchQuantizedKVCache  # noqa: TID251

    from workers.vlm.batch import _fill

    for kind, arrays in ((BatchKVCache, 1), (BatchQuantizedKVCache, 3)):
        values = mx.random.normal((1, 2, 5, 64))
        cache, again = kind([0]), kind([0])
        assert cache.keys is None
        assert cache.size() == 0
        cache.update_and_fetch(values, values)
        assert cache._idx == 5
        assert cache.left_padding.tolist() == [0]
        held = [
            part[:, :, :5]
            for both in (cache.keys, cache.values)
            for part in (both if isinstance(both, tuple) else (both,))
        ]
        assert len(held) == 2 * arrays
        _fill(again, tuple(held))
        assert (again._idx, again.offset.tolist()) == (5, [5])
        more = mx.random.normal((1, 2, 3, 64))
        for one, other in zip(
            cache.update_and_fetch(more, more), again.update_and_fetch(more, more), strict=True
        ):
            pairs = zip(one, other, strict=True) if isinstance(one, tuple) else [(one, other)]
            assert all(bool((x == y).all()) for x, y in pairs)


def test_the_first_cache_makes_the_attention_mask() -> None:
    """workers.vlm.batch.Language overrides it for a single row, which ``filter`` never leaves
    padded."""
    import mlx.core as mx  # noqa: TID251
    from mlx_vlm.models.base import create_attention_mask  # noqa: TID251
    from mlx_vlm.models.cache import BatchKVCache  # noqa: TID251

    cache = BatchKVCache([3, 0])
    values = mx.zeros((2, 1, 5, 4))
    cache.update_and_fetch(values, values)
    cache.filter(mx.array([0]))
    assert (cache.left_padding.tolist(), cache._idx) == ([0], 2)
    cache.make_mask = lambda tokens, **_: f"for {tokens}"
    assert create_attention_mask(mx.zeros((1, 7, 4)), [cache]) == "for 7"
    del cache.make_mask
    assert create_attention_mask(mx.zeros((1, 7, 4)), [cache]).shape[-2:] == (7, 9)


def test_the_stopping_criteria_hold_the_end_tokens() -> None:
    from mlx_vlm.utils import StoppingCriteria  # noqa: TID251

    assert StoppingCriteria([3, 4]).eos_token_ids == [3, 4]


def test_inputs_are_prepared_through_public_names() -> None:
    """workers.vlm.architectures.templated.Templated, for models other than Qwen2.5-VL and
    Moondream2."""
    import mlx_vlm  # noqa: TID251
    from mlx_vlm import utils  # noqa: TID251

    assert {"images", "prompts", "add_special_tokens"} <= set(parameters(mlx_vlm.prepare_inputs))
    assert parameters(utils.should_add_special_tokens) == ["model_type", "processor"]


def test_a_module_without_weights_is_set_to_none() -> None:
    """workers.vlm.engine looks for None among _TOWERS (utils.py, ``_drop_modules_without_weights``)."""
    from mlx_vlm import utils  # noqa: TID251

    assert "setattr(model, name, None)" in inspect.getsource(utils._drop_modules_without_weights)


def test_the_streams_of_a_thread_are_cleared_through_this_name() -> None:
    from mlx_vlm._stream_cleanup import clear_mlx_streams  # noqa: TID251

    assert parameters(clear_mlx_streams) == []
