"""What ``workers.image.families`` and ``workers.image.steps`` rely on in mflux 0.24.0, private names
included.

If one of these tests fails after an upgrade, its name or docstring says where to look.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from contracts.families import FAMILIES
from workers.image.families import SOURCES

pytestmark = pytest.mark.mlx


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def definition_of(name: str) -> Any:
    from importlib import import_module

    source = SOURCES[name]
    return getattr(import_module(source.module), source.adapter)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_parts_are_mflux_s_components(name: str) -> None:
    adapter = definition_of(name)
    components = adapter.definition.get_components()
    assert {(c.name, c.model_attr or c.name, c.hf_subdir) for c in components} == {
        (part.component, part.attribute, part.folder) for part in adapter.parts
    }
    assert adapter.tokenizer in {tokenizer.name for tokenizer in adapter.definition.get_tokenizers()}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_downloaded_files_are_those_that_mflux_downloads(name: str) -> None:
    definition = definition_of(name).definition
    patterns = set(definition.get_download_patterns())
    for tokenizer in definition.get_tokenizers():
        patterns |= set(tokenizer.download_patterns)
    assert set(SOURCES[name].files) == patterns


@pytest.mark.parametrize("name", ["flux2-klein-4b", "flux2-klein-9b", "z-image-turbo"])
def test_every_parameter_of_the_full_size_model_is_mapped_from_the_hubs_layout(name: str) -> None:
    """So ``families.checkpoint`` accepts the authors' checkpoints."""
    from mflux.models.common.weights.mapping.weight_mapper import WeightMapper  # noqa: TID251
    from mlx.utils import tree_flatten  # noqa: TID251

    from testkit.random_models import networks

    model, definition = networks(name)
    for component in definition.get_components():
        network = getattr(model, component.model_attr or component.name)
        mapping = WeightMapper._build_flat_mapping(
            component.mapping_getter(), component.num_blocks or 40, component.num_layers or 40
        )
        mapped = {target for targets in mapping.values() for target, _ in targets}
        names = {parameter for parameter, _ in tree_flatten(network.parameters())}
        assert names - mapped <= definition_of(name).computed, component.name


def test_mflux_loads_in_the_same_steps_as_the_adapters() -> None:
    from mflux.models.flux2.flux2_initializer import Flux2Initializer  # noqa: TID251
    from mflux.models.z_image.z_image_initializer import ZImageInitializer  # noqa: TID251

    for initializer in (Flux2Initializer, ZImageInitializer):
        assert parameters(initializer._init_config) == ["model", "model_config"]
        assert parameters(initializer._init_tokenizers) == ["model", "model_path"]
        assert parameters(initializer._init_models) == ["model"]
        steps = inspect.getsource(initializer.init)
        assert steps.index("_init_models") < steps.index("_apply_weights") < steps.index("_apply_lora")


def test_one_component_can_be_read_again() -> None:
    """``families.checkpoint.read_part`` reloads text encoders."""
    from mflux.models.common.weights.loading.weight_applier import WeightApplier  # noqa: TID251
    from mflux.models.common.weights.loading.weight_loader import WeightLoader  # noqa: TID251

    assert parameters(WeightLoader._load_component) == [
        "root_path",
        "component",
        "raw_weights_cache",
        "save_subdir",
    ]
    assert set(parameters(WeightApplier.apply_and_quantize)) == {
        "weights",
        "models",
        "quantize_arg",
        "weight_definition",
    }


def test_callbacks_run_before_the_first_step_and_before_each_evaluation() -> None:
    """``steps`` writes the masked source into the array from which the next step starts."""
    from mflux.models.flux.variants.fill.flux_fill import Flux1Fill  # noqa: TID251
    from mflux.models.flux.variants.kontext.flux_kontext import Flux1Kontext  # noqa: TID251
    from mflux.models.flux.variants.txt2img.flux import Flux1  # noqa: TID251
    from mflux.models.flux2.variants.edit.flux2_klein_edit import Flux2KleinEdit  # noqa: TID251
    from mflux.models.flux2.variants.txt2img.flux2_klein import Flux2Klein  # noqa: TID251
    from mflux.models.z_image.variants.z_image import ZImage  # noqa: TID251

    for kind in (Flux1, Flux1Kontext, Flux1Fill, Flux2Klein, Flux2KleinEdit, ZImage):
        source = inspect.getsource(kind.generate_image)
        places = [
            source.index(text)
            for text in (
                "ctx.before_loop(latents)",
                "latents = config.scheduler.step(",
                "ctx.in_loop(t, latents)",
                "mx.eval(latents)",
                "ctx.after_loop(latents)",
            )
        ]
        assert places == sorted(places), kind
        assert source.count("except") == 1, kind
        assert "except KeyboardInterrupt" in source, kind


def test_an_mlx_array_is_changed_in_place() -> None:
    import mlx.core as mx  # noqa: TID251

    array = mx.zeros((2, 2))
    same = array
    array[...] = mx.ones((2, 2))
    assert same.tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_a_step_follows_the_model_s_velocity() -> None:
    """``steps.final_latents``: x(t+1) = x(t) + (sigma(t+1) - sigma(t)) v, for both schedulers."""
    import mlx.core as mx  # noqa: TID251
    from mflux.models.common.config.config import Config  # noqa: TID251
    from mflux.models.common.config.model_config import ModelConfig  # noqa: TID251

    from workers.image.steps import final_latents

    clean, noise = mx.full((1, 4), 0.25), mx.full((1, 4), -1.5)
    for scheduler, model in (
        ("linear", ModelConfig.schnell()),
        ("linear", ModelConfig.dev()),
        ("flow_match_euler_discrete", ModelConfig.flux2_klein_4b()),
    ):
        config = Config(model, num_inference_steps=4, height=256, width=256, scheduler=scheduler)
        sigmas = config.scheduler.sigmas
        assert sigmas.shape == (5,)
        assert sigmas[0].item() == pytest.approx(1.0)
        before = (1 - sigmas[1]) * clean + sigmas[1] * noise
        after = config.scheduler.step(noise=noise - clean, timestep=1, latents=before, sigmas=sigmas)
        found = final_latents(before, after, sigmas[1], sigmas[2])
        assert mx.allclose(found, clean, atol=1e-4).item()


def test_the_overridden_methods_are_called_with_the_expected_arguments() -> None:
    from mflux.models.flux2.variants.edit.flux2_klein_edit import Flux2KleinEdit  # noqa: TID251
    from mflux.models.flux2.variants.edit.flux2_klein_edit_helpers import (  # noqa: TID251
        _Flux2KleinEditHelpers,
    )
    from mflux.models.flux2.variants.txt2img.flux2_klein import Flux2Klein  # noqa: TID251
    from mflux.models.z_image.variants.z_image import ZImage  # noqa: TID251

    encoded = ["self", "prompt", "negative_prompt", "guidance"]
    for kind, encode in (
        (Flux2Klein, "_encode_prompt_pair"),
        (Flux2KleinEdit, "_encode_prompt_pair"),
        (ZImage, "_encode_prompts"),
    ):
        assert parameters(getattr(kind, encode)) == encoded
        source = inspect.getsource(kind.generate_image)
        assert f"self.{encode}(" in source
        assert "self._predict(self.transformer)" in source
        assert "text_encoder" not in source  # so lean may have none by then
    assert parameters(_Flux2KleinEditHelpers.bn_normalize_vae_encoded_latents) == ["encoded", "vae"]


def test_a_compiled_step_depends_on_the_transformer_only() -> None:
    """``_predict`` is reused for other images."""
    from mflux.models.flux2.variants.txt2img.flux2_klein import Flux2Klein  # noqa: TID251
    from mflux.models.z_image.variants.z_image import ZImage  # noqa: TID251

    for kind in (Flux2Klein, ZImage):
        source = inspect.getsource(kind._predict)
        assert source.lstrip().startswith("@staticmethod")
        assert parameters(kind._predict) == ["transformer"]


def test_two_families_vaes_can_decode_in_strips() -> None:
    from mflux.models.common.vae.block_decoder import VAEBlockDecoder  # noqa: TID251
    from mflux.models.flux2.model.flux2_vae.vae import Flux2VAE  # noqa: TID251
    from mflux.models.z_image.model.z_image_vae.vae import VAE  # noqa: TID251

    assert (VAEBlockDecoder.LEGACY, VAEBlockDecoder.LOW_MEMORY) == ("legacy", "low_memory")
    assert Flux2VAE.decode_mode == VAE.decode_mode == "legacy"
    assert (Flux2VAE.latent_channels, VAE.latent_channels) == (32, 16)


def test_a_lora_is_merged_into_dense_weights_only() -> None:
    from mflux.models.common.lora.mapping.lora_loader import LoRALoader  # noqa: TID251
    from mflux.models.common.weights.loading.loaded_weights import (  # noqa: TID251
        LoadedWeights,
        MetaData,
    )

    assert {"bake_lora", "dense_weights", "lora_mapping"} <= set(
        parameters(LoRALoader.load_and_apply_lora)
    )
    weights: Any = {"transformer": {"a": 1}}
    assert LoadedWeights(weights, MetaData(None)).dense_component("transformer") == {"a": 1}
    assert LoadedWeights(weights, MetaData(4)).dense_component("transformer") is None
