"""The bare library: ``stream_generate`` of mlx-vlm in one process, one conversation after the other.

``python -m bench.vlm_bare CHECKPOINT``: orders and answers as in ``bench.vlm_load``, without ``url``.
"""

from __future__ import annotations

import base64
import io
import json
import sys
import time
from typing import Any

from PIL import Image

from workers.backend import blas


def main(folder: str) -> None:
    blas.enable()  # unless VISION_FAST_BLAS=0, as in bench.vlm_server
    from mlx_vlm import load, stream_generate  # noqa: TID251 - the peer that is measured
    from mlx_vlm.prompt_utils import apply_chat_template  # noqa: TID251

    model, processor = load(folder)

    def ask(body: dict[str, Any]) -> dict[str, Any]:
        began = time.perf_counter()
        messages, images = plain(body["messages"])
        prompt = apply_chat_template(processor, model.config, messages, num_images=len(images))
        first, text, tokens = 0.0, "", 0
        for part in stream_generate(
            model,
            processor,
            prompt,
            image=images or None,
            max_tokens=body["max_tokens"],
            temperature=0.0,
        ):
            text, tokens = text + part.text, part.generation_tokens
            if text and not first:
                first = time.perf_counter()
        ended = time.perf_counter()
        return {"first_s": first - began, "total_s": ended - began, "tokens": tokens, "text": text}

    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        (bodies,) = json.loads(line)["clients"]  # a library has only one client
        began = time.perf_counter()
        answers = [ask(body) for body in bodies]
        wall_s = time.perf_counter() - began
        print(json.dumps({"wall_s": wall_s, "answers": [answers]}), flush=True)


def plain(messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[Image.Image]]:
    """*messages* in the library's format, and their images."""
    images, converted = [], []
    for message in messages:
        content = message["content"]
        if not isinstance(content, str):
            for part in content:
                if part["type"] == "image_url":
                    data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
                    images.append(Image.open(io.BytesIO(data)))
            content = "".join(part["text"] for part in content if part["type"] == "text")
        converted.append({"role": message["role"], "content": content})
    return converted, images


if __name__ == "__main__":
    main(sys.argv[1])
