"""Each private or undocumented name of mlx-vlm 0.7.10 and mflux 0.24.0 that the engines use.

When one of these fails after an upgrade, the text beside it says what it was for and where to look.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from workers.image.families import SOURCES

pytestmark = pytest.mark.mlx


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize(
    ("package", "version"),
    [("mlx", "0.32.4"), ("mlx-vlm", "0.7.10"), ("mlx-lm", "0.32.2"), ("mflux", "0.24.0")],
)
def test_the_versions_are_those_that_were_read(package: str, version: str) -> None:
    assert importlib.metadata.version(package) == version


class TestHuggingfaceHub:
    def test_the_cache_is_read_and_written_by_these_private_names(self) -> None:
        """workers.hub.copies and workers.hub.remote use them, so the cache stays the library's."""
        from huggingface_hub import _tree_cache, file_download

        assert parameters(_tree_cache.read_tree_cache) == ["tree_cache_folder", "commit_hash"]
        assert parameters(_tree_cache.write_tree_cache) == [
            "tree_cache_folder",
            "commit_hash",
            "entries",
        ]
        fields = ["size", "blob_id", "lfs_sha256", "lfs_size", "xet_hash"]
        assert parameters(_tree_cache.TreeCacheEntry) == fields
        assert parameters(file_download._create_symlink) == ["src", "dst", "new_blob"]
        settle = file_download._cache_commit_hash_for_specific_revision
        assert parameters(settle) == ["storage_folder", "revision", "commit_hash"]

    def test_a_question_has_no_time_limit_of_its_own(self) -> None:
        """workers.hub.remote sets one from outside; once the library has one, ours may go."""
        from huggingface_hub.utils import _http

        assert "timeout=None" in inspect.getsource(_http.default_client_factory)


class TestMlxVlm:
    def test_its_own_wired_limit_is_not_on_our_path(self) -> None:
        """workers.backend.runtime wires nothing (mlx#3186); ``BatchGenerator`` would, its two halves
        don't.
        """
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

    def test_a_prompt_clears_the_cache_after_each_chunk_by_the_name_mx_of_its_module(self) -> None:
        """workers.vlm.batch puts another ``mx`` there; once the library stops that, ours can go."""
        from mlx_vlm.generate import ar  # noqa: TID251

        assert "mx.clear_cache()" in inspect.getsource(ar.PromptProcessingBatch.prompt_step)
        assert "clear_cache" not in inspect.getsource(ar.GenerationBatch)
        assert hasattr(ar, "mx")

    def test_moondreams_processor_reads_the_place_of_its_tokenizer_from_its_module(self) -> None:
        """workers.vlm.engine sets ``TOKENIZER_REPO``; a class attribute instead: set it there."""
        import mlx_vlm.models.moondream2.processing_moondream2 as processing  # noqa: TID251

        source = inspect.getsource(processing.Moondream2Processor.from_pretrained)
        assert isinstance(processing.TOKENIZER_REPO, str)
        assert "TOKENIZER_REPO" in source

    def test_moondreams_hard_coded_ids_are_ours(self) -> None:
        """workers.vlm.architectures.moondream makes the prompts that the processor makes, text alone
        among them.
        """
        import mlx_vlm.models.moondream3.processing_moondream3 as processing  # noqa: TID251

        from workers.vlm.architectures import moondream

        assert (processing.ANSWER_ID, processing.BOS_ID) == (moondream.ANSWER_ID, 0)
        assert processing.NUM_VISION_TOKENS == moondream.PLACES
        source = inspect.getsource(processing.Moondream3Processor.__call__)
        assert r'f"\n\nQuestion: {t}\n\nAnswer: "' in source

    def test_moondream_makes_its_mask_and_loses_it(self) -> None:
        """workers.vlm.batch.Language hands it over as ``mask``; once the library does, ours can go."""
        from mlx_vlm.models.moondream2 import language, moondream2  # noqa: TID251

        source = inspect.getsource(moondream2.Model._create_prefix_attention_mask)
        assert "causal[:prefix_len, :prefix_len] = 0.0" in source
        call = language.LanguageModel.__call__
        assert {"mask", "inputs_embeds", "cache"} <= set(parameters(call))
        assert "attention_mask_4d" not in inspect.getsource(call)

    def test_moondreams_features_are_joined_by_this_method(self) -> None:
        """workers.vlm.architectures.moondream takes its place: 729 means one by one are slower than
        the whole tower.
        """
        from mlx_vlm.models.moondream2.vision import VisionModel  # noqa: TID251

        assert parameters(VisionModel._reconstruct_local_features) == [
            "self",
            "local_features",
            "layout",
        ]
        assert parameters(VisionModel.__call__)[1:] == ["pixel_values", "num_crops", "crop_layouts"]
        assert "self._reconstruct_local_features(" in inspect.getsource(VisionModel.__call__)

    def test_moondreams_processor_takes_pictures_without_a_text(self) -> None:
        from mlx_vlm.models.moondream3 import processing_moondream3 as processing  # noqa: TID251

        source = inspect.getsource(processing.Moondream3Processor.__call__)
        assert "if text is not None" in source
        for key in ("pixel_values", "num_crops", "crop_layouts"):
            assert f'result["{key}"]' in source

    def test_qwen_has_the_parts_of_which_prompts_are_made(self) -> None:
        """workers.vlm.architectures.templated.Qwen does what ``get_input_embeddings`` does, picture by
        picture.
        """
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

    def test_a_tower_goes_through_its_blocks_one_by_one(self) -> None:
        """workers.vlm.prompt.stages puts others in their place, to see what each gives."""
        from mlx_vlm.models.moondream2.vision import VisionEncoder  # noqa: TID251
        from mlx_vlm.models.qwen2_5_vl.vision import VisionModel  # noqa: TID251

        assert "for block in self.blocks:" in inspect.getsource(VisionEncoder.__call__)
        assert "in enumerate(self.blocks):" in inspect.getsource(VisionModel.__call__)

    def test_a_prompt_is_read_in_chunks_by_these_names(self) -> None:
        """workers.vlm.batch.Batch drives one of one row (generate/ar.py, PromptProcessingBatch)."""
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
        # Chunks are cut by prefill_step_size, read anew each time, and leave the last token.
        assert "step = self.prefill_step_size or" in inspect.getsource(Prompt.prompt_step)
        assert "min(step, self._inputs_embeds.shape[1] - 1)" in inspect.getsource(Prompt.prompt_step)

    def test_what_stands_along_the_prompt_is_cut_with_it(self) -> None:
        """position_ids of the suffix must be sliced chunk by chunk."""
        from mlx_vlm.generate import ar  # noqa: TID251

        assert "position_ids" in ar._SEQUENCE_ALIGNED_PROMPT_KWARGS

    def test_rows_decode_by_these_names(self) -> None:
        """workers.vlm.batch.Batch: rows are ended by us, so nothing may end them in ``next``."""
        from mlx_vlm.generate.ar import GenerationBatch  # noqa: TID251

        assert parameters(GenerationBatch.filter) == ["self", "keep"]
        assert parameters(GenerationBatch.extend) == ["self", "other"]
        assert {"uid", "token"} <= set(GenerationBatch.Response.__dataclass_fields__)
        source = inspect.getsource(GenerationBatch.next)
        assert "if self.stop_criteria(tok)" in source
        assert ">= self.max_tokens[i]" in source
        source = inspect.getsource(GenerationBatch._step)
        # The model's logits come first, then the sampler is called, once, for all rows.
        assert source.index("self._language_model(") < source.index("_sample_with_positions(")
        assert source.count("_sample_with_positions(") == 1

    def test_a_sampler_is_called_with_log_probabilities(self) -> None:
        """``_sample_with_positions``; one with ``sample_target`` would be called otherwise."""
        from mlx_vlm.generate import ar  # noqa: TID251

        from workers.vlm.sampler import RowSampler

        assert not hasattr(RowSampler, "sample_target")
        assert ar._sample_with_positions(lambda x: ("drawn", x), 1, row_ids=[0], positions=[0]) == (
            "drawn",
            1,
        )

    def test_keys_and_values_of_a_row_stand_where_we_cut_them_out_and_put_them_in(self) -> None:
        """workers.vlm.batch ``known_of`` and ``_fill`` (models/cache.py)."""
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

    def test_what_a_row_looks_at_is_asked_of_the_first_cache(self) -> None:
        """workers.vlm.batch.Language answers for a single row, which ``filter`` never leaves padded."""
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

    def test_the_ids_that_end_an_answer_are_those_of_the_stopping_criteria(self) -> None:
        from mlx_vlm.utils import StoppingCriteria  # noqa: TID251

        assert StoppingCriteria([3, 4]).eos_token_ids == [3, 4]

    def test_tensors_are_prepared_by_public_names(self) -> None:
        """Of models that are neither Qwen2.5-VL nor Moondream2
        (workers.vlm.architectures.templated.Templated).
        """
        import mlx_vlm  # noqa: TID251
        from mlx_vlm import utils  # noqa: TID251

        assert {"images", "prompts", "add_special_tokens"} <= set(parameters(mlx_vlm.prepare_inputs))
        assert parameters(utils.should_add_special_tokens) == ["model_type", "processor"]

    def test_a_module_without_weights_is_dropped_by_setting_it_to_none(self) -> None:
        """``_drop_modules_without_weights`` in utils.py; workers.vlm.engine looks for None among
        _TOWERS.
        """
        from mlx_vlm import utils  # noqa: TID251

        assert "setattr(model, name, None)" in inspect.getsource(utils._drop_modules_without_weights)

    def test_streams_of_a_thread_are_cleared_by_this_name(self) -> None:
        from mlx_vlm._stream_cleanup import clear_mlx_streams  # noqa: TID251

        assert parameters(clear_mlx_streams) == []

    def test_what_a_standby_imports_ahead_is_there(self) -> None:
        from workers.image import engine as image_engine
        from workers.vlm import engine as vlm_engine

        for name in vlm_engine.LIBRARIES + image_engine.LIBRARIES:
            assert importlib.import_module(name)


class TestMflux:
    def test_it_wires_nothing_and_clears_no_cache_in_the_families_that_are_used(self) -> None:
        """workers.backend.buffers gives freed buffers back in steps; a saver of memory is never
        registered.
        """
        import mflux  # noqa: TID251

        root = Path(mflux.__file__).parent
        texts = {file.relative_to(root): file.read_text() for file in root.rglob("*.py")}
        assert not [name for name, text in texts.items() if "set_wired_limit" in text]
        clearing = {name for name, text in texts.items() if "mx.clear_cache()" in text}
        ours = {Path("models") / family for family in ("flux", "flux2", "z_image")}
        assert not [name for name in clearing if any(family in name.parents for family in ours)]
        assert Path("callbacks/instances/memory_saver.py") in clearing

    def test_a_model_is_made_in_the_steps_that_we_take_one_by_one(self) -> None:
        """``FluxInitializer.init``; workers.image.families does the same, with a check before the
        weights.
        """
        from mflux.models.flux.flux_initializer import FluxInitializer as Init  # noqa: TID251

        assert parameters(Init._init_config) == ["model", "model_config"]
        assert parameters(Init._load_weights) == ["model_path"]
        assert parameters(Init._init_tokenizers) == ["model", "model_path", "model_config"]
        assert parameters(Init._init_models)[:3] == ["model", "model_config", "weights"]
        assert parameters(Init._apply_weights) == ["model", "weights", "quantize"]
        assert parameters(Init._apply_lora)[-1] == "weights"
        steps = [
            line.split("FluxInitializer.")[1].split("(")[0]
            for line in inspect.getsource(Init.init).splitlines()
            if "FluxInitializer._" in line
        ]
        assert steps == [
            "_init_config",
            "_load_weights",
            "_init_tokenizers",
            "_init_models",
            "_apply_weights",
            "_apply_lora",
        ]

    def test_the_components_are_those_that_are_checked(self) -> None:
        from mflux.models.flux.weights.flux_weight_definition import (  # noqa: TID251
            FluxWeightDefinition,
        )

        from workers.image.families.flux1 import Flux1Adapter

        components = FluxWeightDefinition.get_components()
        assert {(c.name, c.model_attr or c.name, c.hf_subdir) for c in components} == {
            (part.component, part.attribute, part.folder) for part in Flux1Adapter.parts
        }

    def test_the_files_that_are_downloaded_are_those_that_mflux_wants(self) -> None:
        from mflux.models.flux.weights.flux_weight_definition import (  # noqa: TID251
            FluxWeightDefinition,
        )

        wanted = set(FluxWeightDefinition.get_download_patterns())
        for tokenizer in FluxWeightDefinition.get_tokenizers():
            wanted |= set(tokenizer.download_patterns)
        assert set(SOURCES["flux1-schnell"].files) == wanted

    def test_every_parameter_of_the_full_size_model_is_mapped_from_the_hubs_layout(self) -> None:
        """So the check of names (workers.image.families.checkpoint) refuses no whole one. No weights
        needed:
        MLX is lazy, and the networks are only counted."""
        from mflux.models.common.config.model_config import ModelConfig  # noqa: TID251
        from mflux.models.common.weights.mapping.weight_mapper import WeightMapper  # noqa: TID251
        from mflux.models.flux.model.flux_text_encoder.clip_encoder.clip_encoder import (  # noqa: TID251
            CLIPEncoder,
        )
        from mflux.models.flux.model.flux_text_encoder.t5_encoder.t5_encoder import (  # noqa: TID251
            T5Encoder,
        )
        from mflux.models.flux.model.flux_transformer.transformer import (  # noqa: TID251
            Transformer,
        )
        from mflux.models.flux.model.flux_vae.vae import VAE  # noqa: TID251
        from mflux.models.flux.weights.flux_weight_definition import (  # noqa: TID251
            FluxWeightDefinition,
        )
        from mlx.utils import tree_flatten  # noqa: TID251

        networks = {
            "vae": VAE(),
            "transformer": Transformer(ModelConfig.dev(), 19, 38),
            "t5_encoder": T5Encoder(),
            "clip_encoder": CLIPEncoder(),
        }
        for component in FluxWeightDefinition.get_components():
            mapping = WeightMapper._build_flat_mapping(
                component.mapping_getter(), component.num_blocks or 19, component.num_layers or 12
            )
            mapped = {target for targets in mapping.values() for target, _ in targets}
            names = {name for name, _ in tree_flatten(networks[component.name].parameters())}
            assert names <= mapped, component.name

    def test_the_attributes_of_the_model_are_those_that_we_replace(self) -> None:
        """prompt_cache is only asked ``in``, ``[]`` and ``[]=``; callbacks can't be taken back."""
        from mflux.callbacks.callback_registry import CallbackRegistry  # noqa: TID251
        from mflux.models.flux.flux_initializer import FluxInitializer  # noqa: TID251
        from mflux.models.flux.model.flux_text_encoder import prompt_encoder  # noqa: TID251

        model = SimpleNamespace()
        FluxInitializer._init_config(model, None)
        assert (model.prompt_cache, model.tiling_config) == ({}, None)
        assert isinstance(model.callbacks, CallbackRegistry)
        source = inspect.getsource(prompt_encoder.PromptEncoder.encode_prompt)
        assert source.count("prompt_cache[prompt]") == 2
        assert "if prompt in prompt_cache" in source

    def test_the_callback_gets_the_latents_before_they_are_computed(self) -> None:
        """``ctx.in_loop`` then ``mx.eval`` in txt2img/flux.py; only KeyboardInterrupt is caught."""
        from mflux.models.flux.variants.txt2img.flux import Flux1  # noqa: TID251

        source = inspect.getsource(Flux1.generate_image)
        assert source.index("ctx.in_loop(t, latents)") < source.index("mx.eval(latents)")
        assert source.count("except") == 1
        assert "except KeyboardInterrupt" in source

    def test_image_strength_is_the_share_of_the_steps_that_are_skipped(self) -> None:
        """workers.image.engine.mflux_strength turns it round (common/config/config.py)."""
        from mflux.models.common.config.config import Config  # noqa: TID251
        from mflux.models.common.config.model_config import ModelConfig  # noqa: TID251

        from workers.image.engine import mflux_strength

        for steps in (1, 4, 8, 25, 100):
            for run_steps in range(1, steps + 1):
                config = Config(
                    ModelConfig.schnell(),
                    num_inference_steps=steps,
                    height=64,
                    width=64,
                    image_path=None if run_steps == steps else "x",
                    image_strength=mflux_strength(steps, run_steps),
                )
                assert steps - config.init_time_step == run_steps

    def test_what_is_rewritten_for_small_checkpoints_is_still_what_was_read(self) -> None:
        """Three functions with literal sizes; workers.image.families has them without."""
        from mflux.models.flux.model.flux_text_encoder.clip_encoder import (  # noqa: TID251
            clip_text_model,
        )
        from mflux.models.flux.model.flux_text_encoder.t5_encoder import (  # noqa: TID251
            t5_self_attention,
        )
        from mflux.models.flux.model.flux_transformer import ada_layer_norm_zero  # noqa: TID251

        ada = inspect.getsource(ada_layer_norm_zero.AdaLayerNormZero)
        t5 = inspect.getsource(t5_self_attention.T5SelfAttention)
        clip = inspect.getsource(clip_text_model.CLIPTextModel)
        assert "18432 // 6" in ada
        assert "(1, -1, 64, 64)" in t5
        assert "def _compute_bias(self, seq_length" in t5
        assert "create_causal_attention_mask" in clip

    def test_the_pinned_revisions_and_the_precision_are_where_we_look(self) -> None:
        import mlx.core as mx  # noqa: TID251
        from mflux.models.common.config.model_config import ModelConfig  # noqa: TID251
        from mflux.models.common.resolution.model_revisions import ModelRevisions  # noqa: TID251

        assert len(ModelRevisions.get("black-forest-labs/FLUX.1-schnell")) == 40
        assert ModelRevisions.get("somebody/else") is None
        assert ModelConfig.precision in (mx.bfloat16, mx.float32)
