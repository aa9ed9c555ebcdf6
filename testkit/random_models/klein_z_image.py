"""FLUX.2 klein and Z-Image: mflux's networks at full or tiny size."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

from testkit.random_models.tokenizers import qwen_tokenizer
from testkit.random_models.vae import GROUPS, shrink_vae

KLEIN: dict[str, Any] = {
    "transformer": {
        "num_layers": 1, "num_single_layers": 2, "attention_head_dim": 32, "num_attention_heads": 4,
        "joint_attention_dim": 3 * 64, "axes_dims_rope": [8, 8, 8, 8],
    },
    # The hidden states 9, 18 and 27 are used.
    "text_encoder": {
        "vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 28, "num_attention_heads": 2,
        "num_key_value_heads": 1, "intermediate_size": 128, "head_dim": 32,
    },
    # Every prompt is padded to this many tokens, and each step attends to all of them.
    "vae_groups": GROUPS, "max_length": 64,
}  # fmt: skip
Z_IMAGE: dict[str, Any] = {
    "transformer": {
        "dim": 192, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 4, "cap_feat_dim": 64,
        "axes_dims": [16, 16, 16],
    },
    "text_encoder": {
        "vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2,
        "num_key_value_heads": 1, "intermediate_size": 128, "head_dim": 32,
    },
    "vae_groups": GROUPS, "max_length": 96,
}  # fmt: skip


def klein(family: str, tiny: bool) -> tuple[Any, Any, dict[str, Any]]:
    from mflux.models.common.config.model_config import ModelConfig  # noqa: TID251
    from mflux.models.common.tokenizer import LanguageTokenizer  # noqa: TID251
    from mflux.models.flux2.flux2_initializer import Flux2Initializer  # noqa: TID251
    from mflux.models.flux2.weights.flux2_weight_definition import (  # noqa: TID251
        Flux2KleinWeightDefinition,
    )

    of_size = ModelConfig.flux2_klein_9b if family.endswith("9b") else ModelConfig.flux2_klein_4b
    model = SimpleNamespace(model_config=copy.copy(of_size()), small_text_encoder=False)
    if tiny:
        model.model_config.transformer_overrides = KLEIN["transformer"]
        model.model_config.text_encoder_overrides = KLEIN["text_encoder"]
    Flux2Initializer._init_models(model)
    model.tokenizers = {"qwen3": LanguageTokenizer(qwen_tokenizer(), 512)}
    if tiny:
        shrink_vae(model.vae)
    return model, Flux2KleinWeightDefinition, KLEIN


def z_image(family: str, tiny: bool) -> tuple[Any, Any, dict[str, Any]]:
    from mflux.models.common.tokenizer import LanguageTokenizer  # noqa: TID251
    from mflux.models.z_image.model.z_image_text_encoder.text_encoder import (  # noqa: TID251
        TextEncoder,
    )
    from mflux.models.z_image.model.z_image_transformer.transformer import (  # noqa: TID251
        ZImageTransformer,
    )
    from mflux.models.z_image.model.z_image_vae.vae import VAE  # noqa: TID251
    from mflux.models.z_image.weights.z_image_weight_definition import (  # noqa: TID251
        ZImageWeightDefinition,
    )

    sizes: dict[str, Any] = Z_IMAGE if tiny else {"transformer": {}, "text_encoder": {}}
    model = SimpleNamespace(
        vae=VAE(),
        transformer=ZImageTransformer(**sizes["transformer"]),
        text_encoder=TextEncoder(**sizes["text_encoder"]),
        tokenizers={"z_image": LanguageTokenizer(qwen_tokenizer(), 512)},
    )
    if tiny:
        shrink_vae(model.vae)
    return model, ZImageWeightDefinition, Z_IMAGE
