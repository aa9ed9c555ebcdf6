"""A worker's app with an image model: generations and edits."""

from __future__ import annotations

import base64
import io
import json
import threading
from typing import Any

import httpx
import pytest
from PIL import Image

from contracts.control import WorkerHealth
from contracts.wire.images import ImagesResponse
from testkit.fakes.engine import FakeEngine
from tests.workers.apps import DRAW, IMAGE, b64, error_of, png, wait_for, worker
from workers.engine import ImageJob
from workers.image.files import recipe_of


def blocks_of(stream: str) -> list[str]:
    return [block for block in stream.split("\n\n") if block]


class TestImages:
    def test_an_image_has_the_size_and_steps_of_the_settings(
        self, image_client: httpx.Client, engine: FakeEngine
    ) -> None:
        body = ImagesResponse.model_validate(
            image_client.post("/v1/images/generations", json=DRAW).json()
        )
        assert body.size == "64x32"
        assert (body.usage.seed, body.usage.output_tokens) == (7, 8)
        job: ImageJob = engine.jobs[0]
        assert (job.steps, job.run_steps, job.guidance, job.source) == (4, 4, 0.0, None)
        with Image.open(io.BytesIO(base64.b64decode(body.data[0].b64_json or ""))) as image:
            assert (image.format, image.size, image.getpixel((0, 0))) == ("PNG", (64, 32), (7, 7, 7))

    def test_n_images_have_consecutive_seeds(self, image_client: httpx.Client) -> None:
        body = image_client.post("/v1/images/generations", json={**DRAW, "n": 3, "seed": 0}).json()
        shades = []
        for data in body["data"]:
            with Image.open(io.BytesIO(base64.b64decode(data["b64_json"]))) as image:
                shades.append(image.getpixel((0, 0))[0])
        assert shades == [0, 1, 2]

    def test_an_edit_keeps_the_size_and_aspect_ratio_of_its_source(
        self, image_client: httpx.Client, engine: FakeEngine
    ) -> None:
        fields = {**DRAW, "image": b64(png(100, 37)), "strength": 0.5, "size": "auto"}
        body = image_client.post("/v1/images/edits", json=fields).json()
        job: ImageJob = engine.jobs[0]
        assert job.source is not None
        assert body["size"] == f"{job.width}x{job.height}" == "96x32"
        assert job.source.size == (96, 32)
        assert (job.steps, job.run_steps) == (8, 4)
        assert body["usage"]["input_tokens_details"]["image_tokens"] == 12

    def test_an_explicit_size_of_another_aspect_ratio_crops_the_source(
        self, image_client: httpx.Client, engine: FakeEngine
    ) -> None:
        fields = {**DRAW, "image": b64(png(100, 50)), "size": "32x32"}
        assert image_client.post("/v1/images/edits", json=fields).json()["size"] == "32x32"
        assert engine.jobs[0].source.size == (32, 32)

    def test_the_default_strength_is_used_without_one(
        self, image_client: httpx.Client, engine: FakeEngine
    ) -> None:
        image_client.post("/v1/images/edits", json={**DRAW, "image": b64(png())})
        assert engine.jobs[0].run_steps == 6  # ceil(8 * 0.7)

    def test_strength_0_returns_the_original_without_the_model(
        self, image_client: httpx.Client, engine: FakeEngine
    ) -> None:
        original = png(33, 21, "purple")
        fields = {**DRAW, "image": b64(original), "strength": 0, "n": 2}
        body = image_client.post("/v1/images/edits", json=fields).json()
        assert [base64.b64decode(d["b64_json"]) for d in body["data"]] == [original] * 2
        assert body["size"] == "33x21"
        again = image_client.post("/v1/images/edits", json={**fields, "output_format": "webp"}).json()
        with Image.open(io.BytesIO(base64.b64decode(again["data"][0]["b64_json"]))) as image:
            assert (image.format, image.size) == ("WEBP", (33, 21))
        assert engine.jobs == []

    def test_the_output_format_is_as_requested(self, image_client: httpx.Client) -> None:
        for form in ("png", "jpeg", "webp"):
            fields = {**DRAW, "output_format": form, "output_compression": 50}
            body = image_client.post("/v1/images/generations", json=fields).json()
            assert body["output_format"] == form
            with Image.open(io.BytesIO(base64.b64decode(body["data"][0]["b64_json"]))) as image:
                assert (image.format or "").lower() == form

    def test_an_invalid_field_is_refused_by_name(
        self, image_client: httpx.Client, engine: FakeEngine
    ) -> None:
        for name, value in (
            ("size", "8x8"),
            ("size", "big"),
            ("size", "4096x4096"),
            ("negative_prompt", "blurry"),
            ("steps", 0),
            ("seed", -1),
            ("prompt", ""),
        ):
            response = image_client.post("/v1/images/generations", json={**DRAW, name: value})
            assert (response.status_code, error_of(response)["param"]) == (400, name), value
        assert engine.jobs == []

    def test_a_stream_has_a_comment_for_each_step_and_an_event_for_each_image(
        self, image_client: httpx.Client
    ) -> None:
        fields = {**DRAW, "stream": True, "partial_images": 1, "n": 2, "steps": 2}
        blocks = blocks_of(image_client.post("/v1/images/generations", json=fields).text)
        kinds = [block.split("\n")[0].partition(", about")[0] for block in blocks]
        partial, final = (f"event: image_generation.{name}" for name in ("partial_image", "completed"))
        first, second = ([f": step {k} of 2, image {i} of 2" for k in (1, 2)] for i in (1, 2))
        assert kinds == [
            *(": started", first[0], partial, first[1], final),
            *(second[0], partial, second[1], final),
        ]
        data = [json.loads(block.split("\ndata: ")[1]) for block in blocks if "data: " in block]
        assert [d["image_index"] for d in data] == [0, 0, 1, 1]
        assert [d["usage"]["seed"] for d in data if "usage" in d] == [7, 8]
        assert all(d["size"] == "64x32" for d in data)
        for d in data:
            with Image.open(io.BytesIO(base64.b64decode(d["b64_json"]))) as image:
                assert image.size == (64, 32)

    def test_a_mask_is_scaled_with_its_image(
        self, image_client: httpx.Client, engine: FakeEngine
    ) -> None:
        fields = {**DRAW, "image": b64(png(100, 37)), "mask": b64(png(100, 37, "white"))}
        assert image_client.post("/v1/images/edits", json=fields).status_code == 200
        job: ImageJob = engine.jobs[0]
        assert job.source is not None
        assert job.mask is not None
        assert job.mask.size == job.source.size == (96, 32)
        assert (job.mask.mode, job.mask.getextrema()) == ("L", (255, 255))
        assert (job.steps, job.run_steps) == (8, 8), "a masked edit runs all steps"

    def test_an_instruction_edit_gets_all_images_as_references(self, engine: FakeEngine) -> None:
        settings = IMAGE.model_copy(update={"family": "flux2-klein-4b"})
        images = [b64(png(64, 32)), b64(png(5, 40))]
        with worker(engine, settings) as client:
            fields = {**DRAW, "image": images, "size": "32x32"}
            body = client.post("/v1/images/edits", json=fields).json()
            job: ImageJob = engine.jobs[0]
            assert (body["size"], job.source, job.mask) == ("32x32", None, None)
            assert [image.size for image in job.references] == [(64, 32), (16, 32)]
            assert job.steps == job.run_steps
            assert body["usage"]["input_tokens_details"]["image_tokens"] == 8 + 2

            masked = {**fields, "image": images[0], "mask": b64(png(64, 32, "white"))}
            client.post("/v1/images/edits", json=masked)
            job = engine.jobs[1]
            assert job.source is not None
            assert job.source.size == job.references[0].size == (32, 32)

            client.post("/v1/images/edits", json={**fields, "image": images[0], "strength": 0.5})
            job = engine.jobs[2]
            assert (job.references, job.run_steps) == ((), 4)

    def test_a_family_that_fills_masks_runs_all_steps_on_source_and_mask(
        self, engine: FakeEngine
    ) -> None:
        settings = IMAGE.model_copy(update={"family": "flux1-fill"})
        with worker(engine, settings) as client:
            fields = {**DRAW, "image": b64(png(64, 32)), "mask": b64(png(64, 32, "white"))}
            assert client.post("/v1/images/edits", json=fields).status_code == 200
        job: ImageJob = engine.jobs[0]
        assert (job.steps, job.run_steps, job.references) == (8, 8, ())
        assert job.source is not None
        assert job.mask is not None

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_faulty_image_or_mask_is_refused_by_name(
        self, image_client: httpx.Client, engine: FakeEngine, stream: bool
    ) -> None:
        for name, value in (
            ("image", [b64(png()), b64(png())]),
            ("mask", b64(png(8, 8, "black"))),
            ("mask", b64(png(8, 4, "white"))),
            ("mask", b64(b"not an image")),
            ("mask", b64(png())[:40]),
            ("image", b64(png()[:30])),
        ):
            fields = {**DRAW, "image": b64(png()), "stream": stream, name: value}
            response = image_client.post("/v1/images/edits", json=fields)
            assert (response.status_code, error_of(response)["param"]) == (400, name), value
        assert engine.jobs == []

    def test_an_image_contains_its_recipe_unless_the_settings_forbid_it(
        self, image_client: httpx.Client
    ) -> None:
        def images(client: httpx.Client, **fields: Any) -> list[bytes]:
            body = client.post("/v1/images/generations", json={**DRAW, **fields}).json()
            return [base64.b64decode(data["b64_json"]) for data in body["data"]]

        both = images(image_client, n=2)
        recipe = recipe_of(both[1])
        assert recipe is not None
        assert (recipe["prompt"], recipe["seed"], recipe["model"]) == ("a cat", 8, "fake")
        assert images(image_client, **recipe) == both[1:]
        with worker(FakeEngine(), IMAGE.model_copy(update={"metadata": False})) as client:
            assert recipe_of(images(client)[0]) is None

    def test_health_reports_the_progress_of_an_image(
        self, image_client: httpx.Client, engine: FakeEngine
    ) -> None:
        def progress() -> Any:
            return image_client.get("/health").json()["drawing"]

        assert progress() is None
        engine.turnstile.clear()
        url = f"{str(image_client.base_url).rstrip('/')}/v1/images/generations"
        client = threading.Thread(
            target=lambda: httpx.post(url, json={**DRAW, "n": 2, "steps": 3}, timeout=10)
        )
        client.start()
        wait_for(lambda: progress() is not None)
        seen = WorkerHealth.model_validate(image_client.get("/health").json()).drawing
        assert seen is not None
        assert (seen.kind, seen.step, seen.steps) == ("generation", 0, 3)
        assert (seen.picture, seen.pictures) == (1, 2)
        engine.turnstile.set()
        client.join()
        wait_for(lambda: progress() is None)

    def test_the_events_of_an_edit_have_their_own_names(self, image_client: httpx.Client) -> None:
        fields = {**DRAW, "stream": True, "image": b64(png())}
        text = image_client.post("/v1/images/edits", json=fields).text
        assert "event: image_edit.completed" in text
