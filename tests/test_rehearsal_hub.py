"""The Hub of ``make rehearsal``: synthetic files, and downloads by huggingface_hub."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from testkit import plain
from testkit.hub_server import children_environ
from tests.rehearsal import report
from tests.rehearsal.hub import Hub
from tests.rehearsal.synthetic import HashBook, Tensor, Text, Weights, sharded, split

NOISE = Tensor("BF16", (1 << 20, 2))
NAME = "maker/model"
WEIGHTS = Weights({"a": Tensor("F32", (3, 5), value=1.0), "b": NOISE, "c": Tensor("U32", (7,))})


def whole(blob: Weights | Text) -> bytes:
    return b"".join(blob.pieces())


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub(HashBook()) as served:
        served.publish(NAME, {"config.json": Text.json({}), "model.safetensors": WEIGHTS})
        yield served


def test_a_weights_file_is_valid_safetensors(tmp_path: Path) -> None:
    WEIGHTS.write(tmp_path / "model.safetensors")
    data = (tmp_path / "model.safetensors").read_bytes()
    assert len(data) == WEIGHTS.size
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    begin, end = header["a"]["data_offsets"]
    values = np.frombuffer(data[8 + length :][begin:end], np.float32)
    assert values.tolist() == [1.0] * 15
    assert header["c"]["data_offsets"][1] == len(data) - 8 - length


def test_weights_can_be_read_from_every_offset() -> None:
    data = whole(WEIGHTS)
    header = len(data) - NOISE.nbytes - 15 * 4 - 7 * 4
    for start in (
        0,
        7,
        header - 1,
        header,
        header + 59,
        header + 61,
        3 << 20,
        len(data) - 3,
        len(data),
    ):
        assert b"".join(WEIGHTS.pieces(start)) == data[start:], start


def test_hashes_match_the_bytes_and_are_stored(tmp_path: Path) -> None:
    file = tmp_path / "hashes.json"
    found = HashBook(file).of(WEIGHTS)
    assert found.sha256 == hashlib.sha256(whole(WEIGHTS)).hexdigest()
    assert list(json.loads(file.read_text())) == [WEIGHTS.key]
    text = Text("a")
    assert HashBook().of(text).git_sha1 == hashlib.sha1(b"blob 1\0a").hexdigest()
    other = Weights({"a": Tensor("F32", (3, 5), value=2.0)})
    assert other.key != Weights({"a": Tensor("F32", (3, 5), value=1.0)}).key


def test_the_index_of_shards_lists_all_tensors() -> None:
    tensors = {name: Tensor("F32", (100,)) for name in "abcde"}
    assert [list(shard) for shard in split(tensors, 900)] == [["a", "b"], ["c", "d"], ["e"]]
    files = sharded(tensors, 900)
    index = json.loads(whole(files["model.safetensors.index.json"]))  # type: ignore[arg-type]
    assert index["weight_map"]["c"] == "model-00002-of-00003.safetensors"
    assert index["metadata"]["total_size"] == 2000


def test_large_files_redirect_to_another_host_and_support_ranges(hub: Hub) -> None:
    url = f"{hub.url}/{NAME}/resolve/main/model.safetensors"
    first = plain.get(url)
    assert first.status_code == 302
    assert first.headers["location"].startswith(f"http://localhost:{hub.port}/cdn/")
    rest = plain.get(first.headers["location"], headers={"range": f"bytes={WEIGHTS.size - 10}-"})
    assert (rest.status_code, rest.content) == (206, whole(WEIGHTS)[-10:])
    small = plain.get(f"{hub.url}/{NAME}/resolve/main/config.json", follow_redirects=True)
    assert (small.history[0].status_code, small.content) == (307, b"{}")


def test_a_gated_repository_is_listed_for_all_and_downloaded_only_with_the_token(hub: Hub) -> None:
    hub.gated, hub.token = frozenset({NAME}), "right"
    file = f"{hub.url}/{NAME}/resolve/main/config.json"
    assert plain.get(f"{hub.url}/api/models/{NAME}/revision/main").json()["gated"] == "manual"
    for headers, status in (({}, 401), ({"authorization": "Bearer wrong"}, 403)):
        answer = plain.get(file, headers=headers)
        assert (answer.status_code, answer.headers["x-error-code"]) == (status, "GatedRepo")
    assert plain.get(file, headers={"authorization": "Bearer right"}).status_code == 307


def test_a_repository_with_a_new_commit_still_serves_the_old_one(hub: Hub) -> None:
    old, _ = hub.at(NAME, "main") or ("", {})
    new = hub.publish(NAME, {"config.json": Text.json({"new": True})})
    shas = {
        revision: plain.get(f"{hub.url}/api/models/{NAME}/revision/{revision}").json()["sha"]
        for revision in ("main", old)
    }
    assert shas == {"main": new, old: old}
    assert plain.get(f"{hub.url}/api/models/{NAME}/revision/{'0' * 40}").status_code == 404


@pytest.mark.process
def test_huggingface_hub_downloads_a_published_repository(hub: Hub, tmp_path: Path) -> None:
    script = f"from huggingface_hub import snapshot_download as s; print(s({NAME!r}))"
    environ = {**children_environ(hub.url, tmp_path), "HF_HUB_DISABLE_XET": "1"}
    run = subprocess.run(
        [sys.executable, "-c", script], env=environ, check=True, capture_output=True, text=True
    )
    folder = Path(run.stdout.split()[-1])
    assert (folder / "model.safetensors").read_bytes() == whole(WEIGHTS)
    assert os.path.basename(folder) == (hub.at(NAME, "main") or ("",))[0]


def test_cuts_damage_and_outages_can_be_injected(hub: Hub) -> None:
    url = f"{hub.url}/cdn/{hub.hashes.of(WEIGHTS).sha256}/model.safetensors"
    hub.cut_after = 1000
    with pytest.raises(Exception, match="peer closed"):
        plain.get(url)
    assert hub.downloads("model.safetensors")[-1].sent == 1000
    hub.damaged = frozenset({"model.safetensors"})
    damaged = plain.get(url).content
    assert (damaged[:-1], damaged[-1] ^ 1) == (whole(WEIGHTS)[:-1], whole(WEIGHTS)[-1])
    hub.down = 503
    assert plain.get(url).status_code == 503


def test_hashes_are_computed_when_a_repository_is_published(tmp_path: Path) -> None:
    kept = tmp_path / "hashes.json"
    with Hub(HashBook(kept)) as served:
        served.publish(NAME, {"model.safetensors": WEIGHTS})
        assert WEIGHTS.key in json.loads(kept.read_text())


def test_the_report_lists_the_checks_of_each_scenario() -> None:
    scenario = {
        "name": "moved",
        "title": "a repository moves on",
        "status": "FAIL",
        "checks": [("it serves", True, ""), ("it is fetched", False, "503\n" + "x" * 300)],
        "facts": {"second load": "3.0 x one SHA-256 over it"},
        "changes": ["config.yaml: manager.idle_timeout_s 8"],
    }
    page = report.page([scenario], "2-core Linux x86-64, 24 GB, MLX on the CPU")
    assert "| moved | a repository moves on | FAIL | 1 of 2 |" in page
    assert "- PASS it serves\n- **FAIL** it is fetched: 503 xxx" in page
    assert "`config.yaml: manager.idle_timeout_s 8`" in page
    assert "- second load: 3.0 x one SHA-256 over it" in page
    assert max(len(line) for line in page.splitlines() if "FAIL** it is" in line) < 260
