"""Files that would unfold into gigabytes are refused before they do. Real processes, whose memory is
measured, and which serve correctly afterwards.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from PIL import Image

from hostctl.local_stack import LocalStack
from testkit.images import GREEN_STAR, as_base64
from testkit.stacks import process_of, running
from tests.security.bombs import BY_HEAD, BY_PIXELS, GOOD
from tests.security.conftest import PARAM, chat, problem
from tests.workers.serving.test_image_codec import saved

pytestmark = [pytest.mark.process, pytest.mark.mlx]

CHAT, ANALYZE = "/v1/chat/completions", "/v1/vision/analyze"
MIB = 1 << 20


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    with running(tmp_path_factory.mktemp("bombs")) as stack:
        httpx.post(f"{stack.url}/v1/system/warm/vlm-fast", timeout=60).raise_for_status()
        caption(stack)
        yield stack


def caption(stack: LocalStack) -> str:
    body = {"image": as_base64(GREEN_STAR), "model": "vlm-fast"}
    answer = httpx.post(stack.url + ANALYZE, json=body, timeout=60).raise_for_status()
    return str(answer.json()["result"])


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Peak:
    """The most by which a process grew (Linux only: counted by the kernel)."""

    def __init__(self, process: psutil.Process) -> None:
        folder = Path("/proc") / str(process.pid)
        if not folder.exists():
            pytest.skip("only Linux reports the peak of a process")
        (folder / "clear_refs").write_text("5")  # resets the peak
        self._status = folder / "status"
        self._before = self._most()

    def _most(self) -> int:
        (line,) = [s for s in self._status.read_text().splitlines() if s.startswith("VmHWM")]
        return int(line.split()[1]) * 1024

    @property
    def grown(self) -> int:
        return self._most() - self._before


@pytest.mark.parametrize("name", BY_HEAD)
def test_the_gateway_refuses_an_oversized_header_and_names_the_limit(
    stack: LocalStack, name: str
) -> None:
    bomb, words = BY_HEAD[name]
    assert len(bomb) < MIB
    peak = Peak(process_of(stack, "gateway"))
    body = {**chat(encoded(bomb)), "model": "vlm-fast"}
    error = problem(httpx.post(stack.url + CHAT, json=body, timeout=20))
    assert words in error["message"]
    assert (error["param"], error["source"]) == (PARAM, "gateway")
    assert peak.grown < 16 * MIB


@pytest.mark.parametrize("name", [*BY_HEAD, *BY_PIXELS])
def test_a_worker_refuses_bombs_and_allocates_no_memory_for_them(stack: LocalStack, name: str) -> None:
    bomb = BY_PIXELS[name] if name in BY_PIXELS else BY_HEAD[name][0]
    assert len(bomb) < 2 * MIB
    peak = Peak(process_of(stack, "vlm-fast"))
    port = stack.settings.models["vlm-fast"].port
    body = {"image": encoded(bomb)}
    error = problem(httpx.post(f"http://127.0.0.1:{port}{ANALYZE}", json=body, timeout=20))
    assert (error["param"], error["source"]) == ("image", "worker")
    assert peak.grown < 96 * MIB


@pytest.mark.parametrize("name", GOOD)
def test_only_the_first_frame_of_a_file_is_decoded(stack: LocalStack, name: str) -> None:
    peak = Peak(process_of(stack, "vlm-fast"))
    body = {"image": encoded(GOOD[name]()), "model": "vlm-fast", "max_tokens": 4}
    answer = httpx.post(stack.url + ANALYZE, json=body, timeout=20)
    assert answer.status_code == 200, answer.text
    assert peak.grown < 96 * MIB


def test_many_of_the_largest_images_take_the_memory_of_one(stack: LocalStack) -> None:
    """8 kB each, 256 MB unfolded; decoding with conversions would take 1 GB each."""
    image = encoded(saved(Image.new("P", (8_000, 8_000)), "PNG", transparency=0))
    assert len(image) < 16_000
    body = {"image": image, "model": "vlm-fast", "max_tokens": 4}
    peak = Peak(process_of(stack, "vlm-fast"))
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(httpx.post, stack.url + ANALYZE, json=body, timeout=120) for _ in range(4)]
        assert [answer.result().status_code for answer in asked] == [200] * 4
    assert peak.grown < 640 * MIB


def test_a_photo_of_ten_megabytes_is_fine(stack: LocalStack) -> None:
    buffer = io.BytesIO()
    noise, photo = Image.effect_noise((400, 300), 60), Image.new("L", (4_000, 3_000))
    for place in range(100):  # repeated: making that much noise takes longer than decoding it
        photo.paste(noise, (place % 10 * 400, place // 10 * 300))
    photo.convert("RGB").save(buffer, "JPEG", quality=96)
    assert 5 * MIB < len(buffer.getvalue()) < 20 * MIB
    body = {"image": encoded(buffer.getvalue()), "model": "vlm-fast", "max_tokens": 4}
    assert httpx.post(stack.url + ANALYZE, json=body, timeout=60).status_code == 200


def test_the_response_is_still_correct_after_all_attacks(stack: LocalStack) -> None:
    assert caption(stack) == "a green star on a yellow background"
    assert httpx.get(f"{stack.url}/healthz", timeout=5).json()["status"] == "ok"
