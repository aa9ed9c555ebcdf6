"""Image responses and progress."""

from __future__ import annotations

import json
from typing import Any

from PIL import Image

from contracts.media import Size
from contracts.wire.images import ImagesResponse
from workers.engine import ImageJob, StepFinished
from workers.image.progress import Progress, step_text
from workers.image.responses import ImageResponse
from workers.serving.endpoint import Identity


def image_response(**fields: Any) -> ImageResponse:
    base: dict[str, Any] = {
        "kind": "image_edit",
        "prompt": "p",
        "prompt_tokens": 3,
        "size": Size(64, 32),
        "output_format": "png",
        "quality": "auto",
        "seed": 5,
        "n": 2,
    }
    return ImageResponse(Identity("img-1", 1_700_000_000, "image-gen"), **{**base, **fields})


class TestResponses:
    def test_tokens_count_the_prompt_and_patches_of_images(self) -> None:
        response = image_response(inputs=(Size(64, 32), Size(16, 16)))
        body = ImagesResponse.model_validate_json(response.whole(["A", "B"], 1.25))
        assert body.usage.model_dump() == {
            "latency": 1.25,
            "seed": 5,
            "input_tokens": 12,
            "input_tokens_details": {"image_tokens": 9, "text_tokens": 3},
            "output_tokens": 16,
            "output_tokens_details": {"image_tokens": 16, "text_tokens": 0},
            "total_tokens": 28,
        }
        assert [(d.b64_json, d.seed) for d in body.data] == [("A", 5), ("B", 6)]
        assert body.data[0].revised_prompt == "p"
        assert (body.size, body.model, body.output_format) == ("64x32", "image-gen", "png")

    def test_quality_is_returned_unless_it_was_auto(self) -> None:
        assert "quality" not in json.loads(image_response().whole(["A"], 1))
        assert json.loads(image_response(quality="high").whole(["A"], 1))["quality"] == "high"

    def test_each_event_has_the_seed_of_its_image(self) -> None:
        raw = image_response(seed=2**64 - 1).completed(1, "A", 1)
        assert raw.startswith(b"event: image_edit.completed\n")
        data = json.loads(raw.decode().split("data: ")[1])
        assert data["usage"]["seed"] == 0
        assert data.keys() == {
            *("type", "b64_json", "background", "created_at", "output_format"),
            *("quality", "size", "image_index", "usage"),
        }

    def test_a_preview_has_its_number_and_no_usage(self) -> None:
        raw = image_response(kind="image_generation").partial(1, 0, "A")
        name = "image_generation.partial_image"
        assert raw.startswith(f"event: {name}\n".encode())
        data = json.loads(raw.decode().split("data: ")[1])
        assert (data["type"], data["image_index"], data["partial_image_index"]) == (name, 1, 0)
        assert "usage" not in data


class TestProgress:
    def job(self, **fields: Any) -> ImageJob:
        return ImageJob("p", 16, 16, steps=8, run_steps=4, guidance=0, seed=0, n=3, **fields)

    def test_the_time_left_is_extrapolated_from_finished_steps(self) -> None:
        progress = Progress(self.job(), now=100.0)
        assert (progress.current.step, progress.current.eta_seconds) == (0, 0.0)
        first = progress.stepped(StepFinished(0, 1, 4), 102.0)
        assert (first.step, first.steps, first.picture, first.pictures) == (1, 4, 1, 3)
        assert first.eta_seconds == 22.0
        later = progress.stepped(StepFinished(1, 2, 4), 112.0)
        assert (later.step, later.picture, later.eta_seconds) == (2, 2, 12.0)
        last = progress.stepped(StepFinished(2, 4, 4), 124.0)
        assert (last.step, last.picture, last.eta_seconds) == (4, 3, 0.0)

    def test_it_distinguishes_generations_and_edits(self) -> None:
        image = Image.new("RGB", (16, 16))
        assert Progress(self.job(), 0).current.kind == "generation"
        assert Progress(self.job(source=image), 0).current.kind == "edit"
        assert Progress(self.job(references=(image,)), 0).current.kind == "edit"

    def test_it_is_described_in_words(self) -> None:
        progress = Progress(self.job(), now=0.0)
        second = progress.stepped(StepFinished(0, 2, 4), 2.0)
        assert step_text(second) == "step 2 of 4, image 1 of 3, about 10 s left"
        alone = second.model_copy(update={"pictures": 1})
        assert step_text(alone) == "step 2 of 4, about 10 s left"
