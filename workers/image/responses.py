"""Image responses: a JSON body, or the events of a stream. Pure: images come in as base64 text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from contracts.families import Quality
from contracts.media import Size
from contracts.wire.images import (
    ImageData,
    ImagesResponse,
    ImageStreamEvent,
    ImageUsage,
    InputTokenDetails,
    OutputTokenDetails,
)
from web import sse
from workers.serving.endpoint import Identity

PATCH = 16  # pixels: the side of the square that counts as one token
_SEEDS = 2**64


@dataclass(frozen=True, slots=True)
class ImageResponse:
    """What all events of one response share.

    *kind* begins the names of the events: image_generation or image_edit. *inputs*: the sizes of the
    images that the model saw.
    """

    identity: Identity
    kind: str
    prompt: str
    prompt_tokens: int
    size: Size
    output_format: str
    quality: Quality
    seed: int
    n: int
    inputs: tuple[Size, ...] = ()

    def whole(self, images: list[str], latency_s: float) -> bytes:
        """An ``ImagesResponse`` with *images* (base64)."""
        data = [
            ImageData(b64_json=text, revised_prompt=self.prompt, seed=self.seed_of(index))
            for index, text in enumerate(images)
        ]
        response = ImagesResponse.model_validate(
            {
                "created": self.identity.created,
                "data": data,
                "output_format": self.output_format,
                "quality": None if self.quality == "auto" else self.quality,
                "size": str(self.size),
                "model": self.identity.model,
                "usage": self._usage(n=self.n, seed=self.seed, latency_s=latency_s),
            }
        )
        return response.model_dump_json(exclude_none=True).encode()

    def partial(self, index: int, number: int, image: str) -> bytes:
        """The event for preview *number* of image *index*."""
        return self._event("partial_image", index, image, partial_image_index=number)

    def completed(self, index: int, image: str, latency_s: float) -> bytes:
        """The event for image *index*, which took *latency_s* seconds."""
        usage = self._usage(n=1, seed=self.seed_of(index), latency_s=latency_s)
        return self._event("completed", index, image, usage=usage)

    def seed_of(self, index: int) -> int:
        """The seed of image *index*."""
        return (self.seed + index) % _SEEDS

    def _usage(self, *, n: int, seed: int, latency_s: float) -> ImageUsage:
        inputs = sum(patches(size) for size in self.inputs)
        outputs = patches(self.size) * n
        return ImageUsage(
            latency=round(latency_s, 3),
            seed=seed,
            input_tokens=self.prompt_tokens + inputs,
            input_tokens_details=InputTokenDetails(image_tokens=inputs, text_tokens=self.prompt_tokens),
            output_tokens=outputs,
            output_tokens_details=OutputTokenDetails(image_tokens=outputs),
            total_tokens=self.prompt_tokens + inputs + outputs,
        )

    def _event(self, name: str, index: int, image: str, **fields: Any) -> bytes:
        event = ImageStreamEvent.model_validate(
            {
                "type": f"{self.kind}.{name}",
                "b64_json": image,
                "created_at": self.identity.created,
                "output_format": self.output_format,
                "quality": self.quality,
                "size": str(self.size),
                "image_index": index,
                **fields,
            }
        )
        return sse.event(event.data(), name=event.type)


def patches(size: Size) -> int:
    return math.ceil(size.width / PATCH) * math.ceil(size.height / PATCH)
