"""Every family draws through mflux's own classes, from a small checkpoint, in each way it claims.

What a random network draws is noise; that it is the same noise as mflux's is what counts.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bench import random_models
from contracts.families import FAMILIES, Family
from tests.workers.conftest import Painter, image_settings, paint
from tests.workers.test_checkpoints import image_refusal, rewritten, without
from workers.engine import Cancelled, Drawn, Encoded, ImageEvent, ImageJob, Previewed, Stepped

pytestmark = pytest.mark.mlx

LISTED = [name for name, family in FAMILIES.items() if not family.experimental]
# Those that differ in more than their numbers: 4B and 9B are the same classes, schnell and dev too.
DISTINCT = [name for name in LISTED if name not in ("flux1-dev", "flux2-klein-9b")]
SIZE = (64, 96)
RED = Image.new("RGB", SIZE, "red")
LEFT = Image.new("L", SIZE, 0)
LEFT.paste(255, (0, 0, 32, 96))
Make = Callable[..., Path]
Load = Callable[..., Painter]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Make:
    made: dict[tuple[str, int | None], Path] = {}

    def make(family: str, bits: int | None = None) -> Path:
        if (family, bits) not in made:
            folder = tmp_path_factory.mktemp("tiny") / family
            thread = threading.Thread(
                target=lambda: random_models.write(folder, family, tiny=True, bits=bits)
            )
            thread.start()
            thread.join()
            assert (folder / "tiny.json").exists()
            made[family, bits] = folder
        return made[family, bits]

    return make


@pytest.fixture(autouse=True)
def uncompiled(request: pytest.FixtureRequest) -> Iterator[None]:
    """mflux compiles the steps of two families, which takes a CPU longest of all: once will do."""
    import mlx.core as mx  # noqa: TID251 - the switch is MLX's

    if request.function is not test_a_listed_family_draws_in_every_way_it_claims:
        mx.disable_compile()
    yield
    mx.enable_compile()


@pytest.fixture
def load(tiny: Make) -> Iterator[Load]:
    from workers.image import MfluxEngine

    loaded: list[Painter] = []

    def load_one(
        family: str, *, bits: int | None = None, folder: Path | None = None, **fields: Any
    ) -> Painter:
        settings = image_settings(folder or tiny(family, bits), family=family, **fields)
        loaded.append(Painter(MfluxEngine(family, settings)))
        return loaded[-1]

    yield load_one
    for painter in loaded:
        painter.close()


def jobs_of(family: Family, **fields: Any) -> dict[str, ImageJob]:
    """A job for each way in which *family* says it draws."""

    def job(**more: Any) -> ImageJob:
        base = {"width": SIZE[0], "height": SIZE[1], "steps": 3, "guidance": family.default_guidance}
        return paint("a red cat", **{**base, **more, **fields})

    ways = {}
    if family.generates:
        ways["generate"] = job()
    if family.strength_edit:
        ways["strength"] = job(source=RED, run_steps=2)
    if family.instruction_edit:
        ways["instruction"] = job(references=(RED.resize((80, 48)),) * family.max_images)
    if family.mask == "blend" and family.strength_edit:
        ways["masked strength"] = job(source=RED, run_steps=2, mask=LEFT)
    if family.mask == "blend" and family.instruction_edit:
        ways["masked instruction"] = job(source=RED, references=(RED,), mask=LEFT)
    if family.mask == "native":
        ways["fill"] = job(source=RED, mask=LEFT)
    return ways


def pictures(events: list[ImageEvent]) -> list[bytes]:
    return [event.rgb for event in events if isinstance(event, Drawn)]


@pytest.mark.parametrize("name", LISTED)
def test_a_listed_family_draws_in_every_way_it_claims(load: Load, name: str) -> None:
    family = FAMILIES[name]
    painter = load(name)
    own = type(painter.engine._adapter.model).__mro__
    assert any(kind.__module__.startswith("mflux.models.") for kind in own)
    ways = jobs_of(family)
    assert ways
    for way, job in ways.items():
        events = painter.events(job)
        assert isinstance(events[0], Encoded), way
        told = [event for event in events if isinstance(event, Stepped)]
        assert [event.step for event in told] == list(range(1, job.run_steps + 1)), way
        (drawn,) = pictures(events)
        assert len(drawn) == SIZE[0] * SIZE[1] * 3, way
        assert len(set(drawn)) > 1, way
        assert pictures(painter.events(job)) == [drawn], f"{way}: the same seed"
        other = paint(**{**fields_of(job), "seed": job.seed + 1})
        assert pictures(painter.events(other)) != [drawn], f"{way}: another seed"


def fields_of(job: ImageJob) -> dict[str, Any]:
    return {name: getattr(job, name) for name in job.__dataclass_fields__}


@pytest.mark.parametrize("name", DISTINCT)
def test_previews_and_neighbours_change_no_picture(load: Load, name: str) -> None:
    painter = load(name)
    for way, job in jobs_of(FAMILIES[name]).items():
        alone = pictures(painter.events(job))
        shown = painter.events(paint(**{**fields_of(job), "previews": 2, "n": 2}))
        assert pictures(shown)[0] == alone[0], way
        previews = [event for event in shown if isinstance(event, Previewed)]
        assert {(p.width, p.height) for p in previews} == {(32, 48)}
        assert [p.index for p in previews] == sorted(p.index for p in previews)


@pytest.mark.parametrize("name", [name for name in DISTINCT if FAMILIES[name].generates])
def test_it_draws_what_mflux_draws(load: Load, name: str) -> None:
    painter = load(name)
    ours = painter.draw("a red cat", width=64, height=64, steps=2, guidance=2.0, seed=3)
    model = painter.engine._adapter.model

    def bare() -> Any:
        model.__class__ = next(k for k in type(model).__mro__ if k.__module__.startswith("mflux."))
        model.prompt_cache = {}
        guidance = 1.0 if "klein" in name else 2.0
        return model.generate_image(
            seed=3, prompt="a red cat", num_inference_steps=2, width=64, height=64, guidance=guidance
        ).image

    assert painter.do(bare).tobytes() == ours.tobytes()


@pytest.mark.parametrize("name", DISTINCT)
def test_lean_drops_text_encoders_and_draws_the_same(load: Load, name: str) -> None:
    fast, lean = load(name), load(name, residency="lean")
    adapter = lean.engine._adapter
    texts = [part.attribute for part in adapter.parts if part.text]
    assert texts
    way, job = next(iter(jobs_of(FAMILIES[name]).items()))
    for prompt in ("a red cat", "a dog in snow"):
        asked = paint(**{**fields_of(job), "prompt": prompt})
        assert pictures(lean.events(asked)) == pictures(fast.events(asked)), way
        assert all(getattr(adapter.model, text) is None for text in texts)
        assert all(getattr(fast.engine._adapter.model, text) is not None for text in texts)


def test_lean_reads_a_prompt_that_is_kept_without_its_encoders(load: Load) -> None:
    painter = load("flux2-klein-4b", residency="lean")
    first = painter.draw("a red cat", width=64, height=64, steps=1)

    def no_more(part: Any) -> Any:
        raise AssertionError(f"{part} was loaded again")

    painter.engine._adapter._text_encoder = no_more
    assert painter.draw("a red cat", width=64, height=64, steps=1).tobytes() == first.tobytes()
    with pytest.raises(AssertionError):
        painter.draw("a dog", width=64, height=64, steps=1)


def test_klein_draws_and_edits_from_one_load(load: Load) -> None:
    painter = load("flux2-klein-4b")
    painter.events(jobs_of(FAMILIES["flux2-klein-4b"])["instruction"])
    adapter = painter.engine._adapter
    assert type(adapter._edits).__mro__[2].__name__ == "Flux2KleinEdit"
    for network in ("transformer", "vae"):
        assert getattr(adapter._edits, network) is getattr(adapter.model, network)


def test_each_picture_of_an_instruction_edit_is_looked_at(load: Load) -> None:
    painter = load("flux2-klein-4b")
    blue = Image.new("RGB", SIZE, "blue")
    drawn = {
        painter.draw("a cat", width=64, height=64, steps=1, references=pictures).tobytes()
        for pictures in [(RED,), (blue,), (RED, blue), (blue, RED)]
    }
    assert len(drawn) == 4


@pytest.mark.parametrize(
    ("name", "bits"),
    [("flux1-schnell", 4), ("flux1-schnell", 8), ("flux2-klein-4b", 4), ("z-image-turbo", 8)],
)
def test_saved_and_loaded_quantization_draw(load: Load, name: str, bits: int) -> None:
    saved, at_load = load(name, bits=bits), load(name, quantize=bits)
    for painter in (saved, at_load):
        layers = [
            type(m).__name__ for _, m in painter.engine._adapter.model.transformer.named_modules()
        ]
        assert layers.count("QuantizedLinear") > 10
        assert painter.engine._adapter.model.bits == bits
    job = next(iter(jobs_of(FAMILIES[name]).values()))
    assert pictures(saved.events(job)) == pictures(at_load.events(job))


class TestLoras:
    """A LoRA in the layout that trainers write: two small matrices for one layer."""

    KEYS = {  # noqa: RUF012
        "flux1-schnell": ("transformer.transformer_blocks.0.attn.to_q", 192),
        "flux2-klein-4b": ("transformer.transformer_blocks.0.attn.to_q", 128),
        "z-image-turbo": ("diffusion_model.layers.0.attention.to_q", 192),
    }

    def lora(self, path: Path, layer: str, width: int) -> Path:
        import mlx.core as mx  # noqa: TID251 - writes the file that the engine reads

        key = mx.random.key(1)
        matrices = {
            f"{layer}.lora_A.weight": mx.random.normal((4, width), key=key),
            f"{layer}.lora_B.weight": mx.random.normal((width, 4), key=key),
        }
        mx.save_safetensors(str(path), matrices)
        return path

    @pytest.mark.parametrize("name", KEYS)
    def test_it_changes_the_picture_as_much_as_its_scale_says(
        self, load: Load, tmp_path: Path, name: str
    ) -> None:
        path = str(self.lora(tmp_path / "style.safetensors", *self.KEYS[name]))
        job = next(iter(jobs_of(FAMILIES[name]).values()))
        plain, none, half, full = (
            pictures(load(name, loras=loras).events(job))[0]
            for loras in ([], *([{"path": path, "scale": scale}] for scale in (0.0, 0.5, 1.0)))
        )
        assert plain == none
        assert len({plain, half, full}) == 3

    def test_beside_quantized_weights_it_works_as_well(self, load: Load, tmp_path: Path) -> None:
        name = "flux2-klein-4b"
        path = str(self.lora(tmp_path / "style.safetensors", *self.KEYS[name]))
        job = jobs_of(FAMILIES[name])["generate"]
        plain = pictures(load(name, bits=4).events(job))
        assert pictures(load(name, bits=4, loras=[{"path": path}]).events(job)) != plain

    def test_a_file_that_is_not_there_or_of_another_model_is_refused(
        self, tiny: Make, tmp_path: Path
    ) -> None:
        folder = tiny("flux1-schnell")
        gone = str(tmp_path / "gone.safetensors")
        assert f"loras: {gone}: there is no such file" in image_refusal(folder, loras=[{"path": gone}])
        other = str(self.lora(tmp_path / "other.safetensors", "some.other.layer", 16))
        assert "loras: " in image_refusal(folder, loras=[{"path": other}])


class TestCheckpoints:
    @pytest.mark.parametrize(
        ("name", "part", "tensor"),
        [
            ("flux1-kontext", "transformer", "time_text_embed.guidance_embedder.linear_1.weight"),
            ("flux1-fill", "transformer", "x_embedder.weight"),
            ("flux2-klein-4b", "transformer", "single_transformer_blocks.1.attn.to_out.weight"),
            ("flux2-klein-4b", "text_encoder", "layers.20.mlp.up_proj.weight"),
            ("flux2-klein-4b", "vae", "bn.running_var"),
            ("z-image-turbo", "transformer", "layers.1.attention.to_q.weight"),
            ("z-image-turbo", "vae", "decoder.conv_in.conv.weight"),
        ],
    )
    def test_a_missing_tensor_is_named_with_its_part(
        self, tiny: Make, tmp_path: Path, name: str, part: str, tensor: str
    ) -> None:
        folder = copy_of(tiny(name), tmp_path)
        rewritten(folder / part / "0.safetensors", without(tensor))
        assert f"{part}: {tensor} is missing" in image_refusal(folder, family=name)

    @pytest.mark.parametrize("name", ["flux2-klein-4b", "z-image-turbo"])
    def test_another_familys_checkpoint_is_refused(self, tiny: Make, name: str) -> None:
        other = {"flux2-klein-4b": "z-image-turbo", "z-image-turbo": "flux2-klein-4b"}[name]
        assert image_refusal(tiny(other), family=name).startswith("models.image.path: ")

    def test_the_layout_of_the_authors_is_read_as_well(
        self, tiny: Make, load: Load, tmp_path: Path
    ) -> None:
        name = "flux2-klein-4b"
        folder = as_published(tiny(name), tmp_path / "published")
        assert not list(folder.rglob("0.safetensors"))
        theirs, ours = load(name, folder=folder), load(name)
        for job in jobs_of(FAMILIES[name]).values():
            assert pictures(theirs.events(job)) == pictures(ours.events(job))
        file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
        rewritten(file, without("context_embedder.weight"))
        assert "context_embedder.weight" in image_refusal(folder, family=name)

    def test_a_folder_of_another_layout_is_refused_by_the_folders_it_lacks(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "flux1-schnell.safetensors").write_bytes(b"")
        message = image_refusal(tmp_path, family="flux2-klein-4b")
        assert "no weights in vae/" in message
        assert "vae, transformer, text_encoder" in message


def as_published(folder: Path, target: Path) -> Path:
    """*folder*, a klein saved by mflux, with the names and shapes of its authors' files."""
    import mlx.core as mx  # noqa: TID251 - writes the files that the engine reads
    from mflux.models.common.weights.mapping.weight_mapper import WeightMapper  # noqa: TID251
    from mflux.models.flux2.weights.flux2_weight_definition import (  # noqa: TID251
        Flux2KleinWeightDefinition,
    )

    for component in Flux2KleinWeightDefinition.get_components():
        held: Any = mx.load(str(folder / component.hf_subdir / "0.safetensors"))
        mapping = WeightMapper._build_flat_mapping(component.mapping_getter(), 30, 30)
        renamed = {}
        for theirs, targets in mapping.items():
            for ours, transform in targets:
                if ours in held:
                    value = held[ours]
                    turned = transform is not None and value.ndim == 4
                    renamed[theirs] = value.transpose(0, 3, 1, 2) if turned else value
        (target / component.hf_subdir).mkdir(parents=True)
        file = target / component.hf_subdir / "diffusion_pytorch_model.safetensors"
        mx.save_safetensors(str(file), renamed)
    shutil.copytree(folder / "tokenizer", target / "tokenizer")
    shutil.copy(folder / "tiny.json", target)
    return target


def copy_of(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target / folder.name))


class TestMemory:
    @pytest.mark.parametrize("name", DISTINCT)
    def test_a_cancelled_job_gives_back_what_it_took_and_the_next_is_unharmed(
        self, load: Load, name: str
    ) -> None:
        import mlx.core as mx  # noqa: TID251 - measures

        painter = load(name)
        jobs = jobs_of(FAMILIES[name], previews=3)
        before = {way: pictures(painter.events(job)) for way, job in jobs.items()}
        painter.do(mx.clear_cache)
        held = painter.do(mx.get_active_memory)
        for job in jobs.values():
            for end in (1, 2):
                interrupt(painter, job, end)
        assert painter.do(mx.get_active_memory) <= held + 4096
        assert painter.do(mx.get_cache_memory) == 0
        assert {way: pictures(painter.events(job)) for way, job in jobs.items()} == before

    def test_the_cache_of_mlx_is_bounded_as_the_settings_say(self, load: Load) -> None:
        import mlx.core as mx  # noqa: TID251 - asks what is set

        painter = load("flux1-schnell", cache_limit_mb=3)
        limit = painter.do(lambda: mx.set_cache_limit(1 << 30))
        assert limit == 3 << 20

    @pytest.mark.parametrize("name", ["flux2-klein-4b", "z-image-turbo"])
    def test_the_vae_works_in_strips_unless_the_settings_say_no(self, load: Load, name: str) -> None:
        modes = []
        for tiling in (None, True, False):
            painter = load(name, vae_tiling=tiling)
            modes.append(painter.engine._adapter.model.vae.decode_mode)
        assert modes == ["low_memory", "low_memory", "legacy"]

    def test_flux1_works_in_tiles_from_a_megapixel_or_as_the_settings_say(self, load: Load) -> None:
        tiled = {}
        for tiling in (None, True, False):
            adapter = load("flux1-schnell", vae_tiling=tiling).engine._adapter
            for side in (512, 1024):
                adapter.tile(side * side)
                tiled[tiling, side] = adapter.model.tiling_config is not None
        assert tiled == {
            (None, 512): False,
            (None, 1024): True,
            (True, 512): True,
            (True, 1024): True,
            (False, 512): False,
            (False, 1024): False,
        }


def interrupt(painter: Painter, job: ImageJob, step: int) -> None:
    def emit(event: ImageEvent | None) -> None:
        if isinstance(event, Stepped) and event.step == step:
            raise Cancelled

    with pytest.raises(Cancelled):
        painter.do(painter.engine.run, job, emit)


class TestTraces:
    def test_the_last_few_shapes_keep_theirs_and_no_more(self) -> None:
        from workers.families.traces import KEPT, Traces

        traces, made = Traces(), []

        def step(shapes: int) -> Any:
            def make() -> object:
                made.append(shapes)
                return object()

            traces.shapes = shapes
            return traces.step(make)

        first = step(0)
        assert step(0) is first
        for shapes in range(1, KEPT):
            step(shapes)
        assert step(0) is first
        step(KEPT)
        assert len(traces) == KEPT
        assert step(0) is first
        step(1)
        assert made == [*range(KEPT + 1), 1]

    def test_a_model_keeps_few_whatever_is_asked(self, load: Load) -> None:
        painter = load("z-image-turbo")
        for prompt in ("a", "a cat", "a red cat", "a red cat in snow"):
            for width in (16, 32):
                painter.draw(prompt, width=width, height=16, steps=1)
        traces = painter.engine._adapter.model.traces
        assert len(traces) == 4


class TestPromptCache:
    def cache(self, limit: int) -> Any:
        from workers.families.prompts import PromptCache

        return PromptCache(limit)

    def entry(self, size: int) -> Any:
        import mlx.core as mx  # noqa: TID251 - what the cache holds

        return (mx.zeros((size,), dtype=mx.uint8),)

    def test_the_prompt_used_longest_ago_goes_first(self) -> None:
        cache = self.cache(100)
        for prompt in ("a", "b"):
            cache[prompt] = self.entry(40)
        assert cache["a"]
        cache["c"] = self.entry(40)
        assert list(cache) == ["a", "c"]
        assert cache.nbytes == 80

    def test_one_that_is_too_large_is_kept_for_its_job_alone(self) -> None:
        cache = self.cache(100)
        cache["a"] = self.entry(40)
        cache["b"] = self.entry(400)
        assert list(cache) == ["b"]
        cache.trim()
        assert list(cache) == []
        assert cache.nbytes == 0

    def test_the_prompts_of_a_model_are_bounded_by_its_settings(self, load: Load) -> None:
        # 32 tokens of 64 float32 of T5, and 64 of CLIP
        each = 32 * 64 * 4 + 64 * 4
        painter = load("flux1-schnell", prompt_cache_mb=1)
        for number in range(140):
            painter.draw(f"a red circle number {number}", steps=1, width=16, height=16)
        prompts = painter.engine._adapter.prompts
        assert prompts.nbytes <= 1 << 20
        assert len(prompts) == (1 << 20) // each
        none = load("flux1-schnell", prompt_cache_mb=0)
        assert none.draw("a cat", steps=1, width=16, height=16, n=1).size == (16, 16)
        assert len(none.engine._adapter.prompts) == 0
