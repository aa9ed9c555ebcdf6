"""Each private or undocumented name of mlx-vlm 0.7.10 and mflux 0.24.0 that the engines use.

When one of these fails after an upgrade, the text beside it says what it was for and where to look.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
from types import SimpleNamespace
from typing import Any

import pytest

from workers.image import FILES

pytestmark = pytest.mark.mlx


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize(
    ("package", "version"),
    [("mlx", "0.32.4"), ("mlx-vlm", "0.7.10"), ("mlx-lm", "0.32.2"), ("mflux", "0.24.0")],
)
def test_the_versions_are_those_that_were_read(package: str, version: str) -> None:
    assert importlib.metadata.version(package) == version


class TestMlxVlm:
    def test_moondreams_processor_reads_the_place_of_its_tokenizer_from_its_module(self) -> None:
        """workers.vlm sets ``TOKENIZER_REPO``; a class attribute instead: set it there."""
        import mlx_vlm.models.moondream2.processing_moondream2 as processing  # noqa: TID251

        source = inspect.getsource(processing.Moondream2Processor.from_pretrained)
        assert isinstance(processing.TOKENIZER_REPO, str)
        assert "TOKENIZER_REPO" in source

    def test_moondreams_hard_coded_ids_are_ours(self) -> None:
        """workers.vlm frames text-only prompts as the processor frames those with an image."""
        import mlx_vlm.models.moondream3.processing_moondream3 as processing  # noqa: TID251

        from workers import vlm

        assert (processing.ANSWER_ID, processing.BOS_ID) == (vlm._ANSWER_ID, 0)
        source = inspect.getsource(processing.Moondream3Processor.__call__)
        assert r'f"\n\nQuestion: {t}\n\nAnswer: "' in source

    def test_stream_generate_takes_tensors_that_were_prepared_by_the_caller(self) -> None:
        """``_prepare_generation_inputs`` in generate/dispatch.py; else prompt and images go in."""
        from mlx_vlm.generate import dispatch  # noqa: TID251

        ids, pixels, mask = object(), object(), object()
        given = {"input_ids": ids, "pixel_values": pixels, "mask": mask, "image_grid_thw": 1}
        made = dispatch._prepare_generation_inputs(None, None, "", None, None, None, given)
        assert made[:3] == (ids, pixels, mask)
        assert given == {"image_grid_thw": 1}

    def test_stream_generate_copies_the_detokenizer_of_the_processor(self) -> None:
        """workers.vlm puts an empty one there: mlx-vlm's raise at ids that they don't know."""
        from mlx_vlm.tokenizer_utils import make_streaming_detokenizer  # noqa: TID251

        from workers.vlm import _NoDetokenizer

        made = make_streaming_detokenizer(SimpleNamespace(detokenizer=_NoDetokenizer()))
        assert isinstance(made, _NoDetokenizer)

    def test_generate_step_calls_the_sampler_and_the_processors_as_ours_expect(self) -> None:
        """Processors get (tokens, logits), the sampler log-probabilities; a sampler with
        ``sample_target`` would be called otherwise (generate/ar.py, _sample_with_positions)."""
        from mlx_vlm.generate import ar  # noqa: TID251

        from workers.sampling import Chooser

        wanted = {"sampler", "logits_processors", "max_tokens", "temperature", "prompt_cache"}
        assert wanted <= set(parameters(ar.generate_step))
        assert not hasattr(Chooser, "sample_target")
        assert ar._sample_with_positions(lambda x: ("drawn", x), 1, row_ids=[0], positions=[0]) == (
            "drawn",
            1,
        )

    def test_tensors_are_prepared_by_public_names(self) -> None:
        import mlx_vlm  # noqa: TID251
        from mlx_vlm import utils  # noqa: TID251

        assert {"images", "prompts", "add_special_tokens"} <= set(parameters(mlx_vlm.prepare_inputs))
        assert parameters(utils.should_add_special_tokens) == ["model_type", "processor"]

    def test_generate_step_lets_the_model_see_by_this_method(self) -> None:
        """workers.vlm calls it without computing what it returns, to find shapes that don't fit."""
        from mlx_vlm.generate import ar  # noqa: TID251

        call = "model.get_input_embeddings(\n            input_ids, pixel_values, mask=mask, **kwargs"
        assert call in inspect.getsource(ar.generate_step)

    def test_a_module_without_weights_is_dropped_by_setting_it_to_none(self) -> None:
        """``_drop_modules_without_weights`` in utils.py; workers.vlm looks for None among _TOWERS."""
        from mlx_vlm import utils  # noqa: TID251

        assert "setattr(model, name, None)" in inspect.getsource(utils._drop_modules_without_weights)

    def test_streams_of_a_thread_are_cleared_by_this_name(self) -> None:
        from mlx_vlm._stream_cleanup import clear_mlx_streams  # noqa: TID251

        assert parameters(clear_mlx_streams) == []

    def test_what_a_standby_imports_ahead_is_there(self) -> None:
        from workers import image, vlm

        for name in vlm.LIBRARIES + image.LIBRARIES:
            assert importlib.import_module(name)


class TestMflux:
    def test_a_model_is_made_in_the_steps_that_we_take_one_by_one(self) -> None:
        """``FluxInitializer.init``; workers.flux does the same, with a check before the weights."""
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

        from workers.flux import _PARTS

        components = FluxWeightDefinition.get_components()
        assert {c.name: (c.model_attr or c.name, c.hf_subdir) for c in components} == _PARTS

    def test_the_files_that_are_downloaded_are_those_that_mflux_wants(self) -> None:
        from mflux.models.flux.weights.flux_weight_definition import (  # noqa: TID251
            FluxWeightDefinition,
        )

        wanted = set(FluxWeightDefinition.get_download_patterns())
        for tokenizer in FluxWeightDefinition.get_tokenizers():
            wanted |= set(tokenizer.download_patterns)
        assert set(FILES) == wanted

    def test_every_parameter_of_the_full_size_model_is_mapped_from_the_hubs_layout(self) -> None:
        """So the check of names in workers.flux refuses no whole checkpoint. No weights needed: MLX is
        lazy, and the networks are only counted."""
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
        """workers.image.mflux_strength turns it round (common/config/config.py)."""
        from mflux.models.common.config.config import Config  # noqa: TID251
        from mflux.models.common.config.model_config import ModelConfig  # noqa: TID251

        from workers.image import mflux_strength

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
        """Three functions with literal sizes; workers.flux has them without."""
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
