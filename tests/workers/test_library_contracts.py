"""Library versions, and every private or undocumented name of huggingface_hub and mflux 0.24.0 in use.

When one of these fails after an upgrade, its docstring says what the name is for and where it is used.
mlx-vlm's names are in vlm/test_library_contracts.py.
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
def test_the_versions_are_those_whose_source_was_read(package: str, version: str) -> None:
    assert importlib.metadata.version(package) == version


def test_every_module_that_a_standby_imports_ahead_exists() -> None:
    from workers.image import engine as image_engine
    from workers.vlm import engine as vlm_engine

    for name in vlm_engine.LIBRARIES + image_engine.LIBRARIES:
        assert importlib.import_module(name)


class TestHuggingfaceHub:
    def test_the_cache_is_read_and_written_through_these_private_names(self) -> None:
        """workers.hub.copies and workers.hub.remote use them, so the library can read the cache."""
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

    def test_a_request_has_no_timeout_of_its_own(self) -> None:
        """workers.hub.remote sets one from outside. Once the library has one, remove ours."""
        from huggingface_hub.utils import _http

        assert "timeout=None" in inspect.getsource(_http.default_client_factory)


class TestMflux:
    def test_it_wires_nothing_and_clears_no_cache_in_our_families(self) -> None:
        """workers.backend.buffers frees buffers in steps. The memory saver callback is never
        registered."""
        import mflux  # noqa: TID251

        root = Path(mflux.__file__).parent
        texts = {file.relative_to(root): file.read_text() for file in root.rglob("*.py")}
        assert not [name for name, text in texts.items() if "set_wired_limit" in text]
        clearing = {name for name, text in texts.items() if "mx.clear_cache()" in text}
        ours = {Path("models") / family for family in ("flux", "flux2", "z_image")}
        assert not [name for name in clearing if any(family in name.parents for family in ours)]
        assert Path("callbacks/instances/memory_saver.py") in clearing

    def test_a_model_is_initialized_in_the_steps_that_we_call_ourselves(self) -> None:
        """workers.image.families does what ``FluxInitializer.init`` does, and checks the weights
        first."""
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

    def test_the_components_are_those_that_we_check(self) -> None:
        from mflux.models.flux.weights.flux_weight_definition import (  # noqa: TID251
            FluxWeightDefinition,
        )

        from workers.image.families.flux1 import Flux1Adapter

        components = FluxWeightDefinition.get_components()
        assert {(c.name, c.model_attr or c.name, c.hf_subdir) for c in components} == {
            (part.component, part.attribute, part.folder) for part in Flux1Adapter.parts
        }

    def test_we_download_the_files_that_mflux_needs(self) -> None:
        from mflux.models.flux.weights.flux_weight_definition import (  # noqa: TID251
            FluxWeightDefinition,
        )

        wanted = set(FluxWeightDefinition.get_download_patterns())
        for tokenizer in FluxWeightDefinition.get_tokenizers():
            wanted |= set(tokenizer.download_patterns)
        assert set(SOURCES["flux1-schnell"].files) == wanted

    def test_every_parameter_of_the_full_size_model_is_mapped_from_the_hubs_layout(self) -> None:
        """So the check in workers.image.families.checkpoint refuses no complete checkpoint. Needs no
        weights: MLX is lazy, and the networks are not evaluated."""
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

    def test_the_model_has_the_attributes_that_we_replace(self) -> None:
        """prompt_cache is used with ``in``, ``[]`` and ``[]=`` only. Callbacks cannot be
        unregistered."""
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
        """txt2img/flux.py: ``ctx.in_loop``, then ``mx.eval``. Only KeyboardInterrupt is caught."""
        from mflux.models.flux.variants.txt2img.flux import Flux1  # noqa: TID251

        source = inspect.getsource(Flux1.generate_image)
        assert source.index("ctx.in_loop(t, latents)") < source.index("mx.eval(latents)")
        assert source.count("except") == 1
        assert "except KeyboardInterrupt" in source

    def test_image_strength_is_the_share_of_steps_that_are_skipped(self) -> None:
        """workers.image.engine.mflux_strength inverts it (common/config/config.py)."""
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

    def test_the_functions_that_we_replace_for_small_checkpoints_are_unchanged(self) -> None:
        """Three functions have literal sizes. workers.image.families has versions without them."""
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

    def test_the_pinned_revisions_and_the_precision_have_these_names(self) -> None:
        import mlx.core as mx  # noqa: TID251
        from mflux.models.common.config.model_config import ModelConfig  # noqa: TID251
        from mflux.models.common.resolution.model_revisions import ModelRevisions  # noqa: TID251

        assert len(ModelRevisions.get("black-forest-labs/FLUX.1-schnell")) == 40
        assert ModelRevisions.get("somebody/else") is None
        assert ModelConfig.precision in (mx.bfloat16, mx.float32)
