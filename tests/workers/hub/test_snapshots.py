"""Which snapshot of a repository is loaded: Hub unavailable, main moved, a revision requested."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.workers.hub.pulls import FAST, NOBODY, Hub, Pull, same
from workers.hub.model_files import VLM_FILES
from workers.hub.snapshots import missing_file

pytestmark = pytest.mark.process

TAG = "2025-06-21"
WEIGHTS = "model.safetensors"


@pytest.fixture
def later(tmp_path: Path) -> Path:
    """The same model, with other weights."""
    folder = tmp_path / "later"
    shutil.copytree(FAST, folder)
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    return folder


def offline(shared: Hub, name: str, **fields: Any) -> str:
    """The last line of a pull's standard error without a connection."""
    ended = Pull(NOBODY, shared.home, name, **fields).ended()
    return ended.errors[-1] if ended.errors else ""


class TestASilentHub:
    """It accepts connections and never responds."""

    def test_a_complete_snapshot_is_loaded_within_seconds_with_a_warning(self, shared: Hub) -> None:
        name = shared.new()
        complete = shared.located(name)
        shared.served.silent = True
        started = time.monotonic()
        assert shared.located(name, answer_s=0.3) == complete
        assert time.monotonic() - started < 5
        assert "the Hub is unavailable (no answer); using the snapshot on the disk" in shared.log

    def test_a_downloaded_commit_needs_no_query(self, shared: Hub) -> None:
        name = shared.new()
        commit = shared.served.commit(name)
        complete = shared.located(name, revision=(commit, True))
        shared.served.seen.clear()
        assert shared.located(name, revision=(commit, True)) == complete
        assert [seen.path for seen in shared.served.seen if name in seen.path] == []

    def test_the_limits_are_seconds(self) -> None:
        from workers.hub import remote

        assert remote.ANSWER_S <= 5
        assert remote.PATIENT_S <= 15


class TestAFailingHub:
    def test_a_temporary_failure_is_retried(self, shared: Hub) -> None:
        for status in (429, 500, 503):
            name = shared.new()
            shared.served.stumbles[name] = [status]
            assert shared.located(name) == str(shared.snapshot(name))
            assert f"the Hub returned status {status}; retrying" in shared.log

    def test_a_lasting_failure_is_explained(self, shared: Hub) -> None:
        name = shared.new()
        for status, words in ((429, "too many requests"), (503, "a fault of the Hub's")):
            shared.served.refusals[name] = (status, "")
            line = shared.located(name)
            assert f"status {status}: " in line
            assert words in line

    def test_with_a_complete_snapshot_there_is_no_retry(self, shared: Hub) -> None:
        name = shared.new()
        complete = shared.located(name)
        shared.served.refusals[name] = (503, "")
        shared.served.seen.clear()
        assert shared.located(name) == complete
        assert len([seen for seen in shared.served.seen if name in seen.path]) == 1


class TestMainHasMoved:
    def test_the_old_snapshot_is_used_until_the_new_one_is_complete(
        self, shared: Hub, later: Path
    ) -> None:
        name = shared.new()
        old = shared.located(name)
        moved = shared.served.move(name, later)
        shared.served.seen.clear()
        assert shared.located(name) == old
        assert moved in shared.log
        assert shared.served.downloads() == []
        # A pull downloads it and keeps the old one.
        shared.served.seen.clear()
        shared.pull(name).succeeded()
        assert len(shared.served.downloads()) == 1  # only the changed file
        assert shared.located(name) == str(shared.snapshot(name, moved))
        assert same(later, shared.snapshot(name, moved))
        assert same(FAST, Path(old))

    def test_an_interrupted_download_keeps_the_old_snapshot(self, shared: Hub, later: Path) -> None:
        name = shared.new()
        shared.pull(name).succeeded()
        shared.served.move(name, later)
        shared.served.bytes_per_second = 2e6
        assert shared.located(name, stop_at=1, newest=True) == "stopped while loading"
        assert "using the snapshot on the disk" in offline(shared, name)

    def test_the_old_snapshot_is_used_if_another_tool_has_moved_main(
        self, shared: Hub, later: Path
    ) -> None:
        """``hf download`` moves ``refs/main`` before it downloads."""
        name = shared.new()
        old = shared.located(name)
        moved = shared.served.move(name, later)
        (shared.folder(name) / "refs" / "main").write_text(moved)  # and nothing is downloaded yet
        assert "using the snapshot on the disk" in offline(shared, name)
        shared.served.silent = False
        assert shared.located(name) == old


class TestARevision:
    def test_a_commit_a_tag_and_a_branch_are_loaded_as_requested(
        self, shared: Hub, later: Path
    ) -> None:
        name = shared.new()
        first = shared.served.commit(name)
        moved = shared.served.move(name, later)
        shared.served.tags[name, TAG] = first
        shared.served.tags[name, "refs/pr/1"] = first
        for revision in (first, TAG, "refs/pr/1"):
            assert shared.located(name, revision=(revision, True)) == str(shared.snapshot(name, first))
        assert shared.located(name, revision=("main", True)) == str(shared.snapshot(name, moved))

    def test_it_comes_from_the_settings(self, shared: Hub, later: Path) -> None:
        name = shared.new()
        first = shared.served.commit(name)
        shared.served.move(name, later)
        shared.pull(name, revision=first).succeeded()
        assert same(FAST, shared.snapshot(name, first))

    def test_a_missing_revision_is_never_replaced(self, shared: Hub) -> None:
        name = shared.new()
        shared.pull(name).succeeded()
        reason = shared.pull(name, revision="v2").failed()
        assert reason.endswith(f"{name} does not have this revision on the Hugging Face Hub")
        assert "is not downloaded yet" in offline(shared, name, revision="v2")

    def test_a_missing_preferred_revision_becomes_main(self, shared: Hub) -> None:
        name = shared.new()
        assert shared.located(name, revision=(TAG, False)) == str(shared.snapshot(name))
        assert f"has no revision {TAG}; using main" in shared.log

    def test_a_snapshot_downloaded_by_commit_loads_offline(self, shared: Hub) -> None:
        """``hf download --revision SHA`` writes no ref."""
        name = shared.new()
        shared.located(name)
        shutil.rmtree(shared.folder(name) / "refs")
        assert "using the snapshot on the disk" in offline(shared, name)
        assert offline(shared, name, revision=shared.served.commit(name)) == ""


class TestSelection:
    def test_second_copies_of_the_weights_are_not_downloaded(self, shared: Hub, tmp_path: Path) -> None:
        folder = tmp_path / "twice"
        shutil.copytree(FAST, folder)
        for name in ("consolidated.safetensors", "original/model.safetensors", "sub/other.json"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"{}")
        name = shared.new(folder)
        shared.pull(name).succeeded()
        found = {
            file.relative_to(shared.snapshot(name)).as_posix()
            for file in shared.snapshot(name).rglob("*")
            if file.is_file()
        }
        assert found == {file.name for file in FAST.iterdir()} | {"sub/other.json"}

    def test_a_repository_without_weights_is_refused_before_the_download(
        self, shared: Hub, tmp_path: Path
    ) -> None:
        for others, words in (
            (["pytorch_model.bin"], "only pytorch_model.bin; choose"),
            ([], "; choose"),
        ):
            folder = tmp_path / f"bare{len(others)}"
            folder.mkdir()
            for other in ("config.json", *others):
                (folder / other).write_text("{}")
            name = shared.new(folder)
            reason = shared.pull(name).failed()
            assert "has no weights in the safetensors format" in reason
            assert words in reason
            assert shared.served.downloads() == []

    def test_the_first_report_has_size_target_and_free_space(self, shared: Hub) -> None:
        name = shared.new()
        first, *_ = shared.pull(name).succeeded()
        cache = shared.home / "hub"
        assert first["detail"].startswith(f"7.4 MB into {cache}, ")
        assert first["detail"].endswith(" free")
        assert first["download"]["done_bytes"] == 0
        assert first["download"]["total_bytes"] > 7_000_000

    def test_hashes_are_checked_in_their_own_phase(self, shared: Hub) -> None:
        *_, last, ready = shared.pull(shared.new()).succeeded()
        assert ready["phase"] == "ready"
        assert last["phase"] == "verifying"
        assert last["detail"] == "7.4 of 7.4 MB"
        assert last["download"]["verified_bytes"] == last["download"]["total_bytes"]


class TestASnapshotOfAnOldLibrary:
    """Without a saved list of its files (``trees/``)."""

    @pytest.fixture
    def name(self, shared: Hub, tmp_path: Path) -> str:
        folder = tmp_path / "sharded"
        shutil.copytree(FAST, folder, ignore=shutil.ignore_patterns(WEIGHTS))
        shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
        for shard in shards:
            (folder / shard).write_text(shard)
        index = {"weight_map": dict(zip("ab", shards, strict=True))}
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
        name = shared.new(folder)
        shared.located(name)
        return name

    def test_a_snapshot_without_a_shard_is_incomplete(self, shared: Hub, name: str) -> None:
        shutil.rmtree(shared.folder(name) / "trees")
        assert "using the snapshot on the disk" in offline(shared, name)
        (shared.snapshot(name) / "model-00002-of-00002.safetensors").unlink()
        reason = offline(shared, name)
        assert (
            f"{name} is only partly downloaded (model-00002-of-00002.safetensors is missing), and the"
            " Hugging Face Hub is unavailable"
        ) in reason

    def test_the_hub_s_list_decides_if_it_is_available(
        self, shared: Hub, name: str, later: Path
    ) -> None:
        """A snapshot that looks complete, but is not by the Hub's list, is not used instead of main."""
        shutil.rmtree(shared.folder(name) / "trees")
        (shared.snapshot(name) / "tokenizer.json").unlink()
        moved = shared.served.move(name, later)
        fresh = Pull(shared.served.url, shared.home, name).ended()
        assert fresh.status == 0
        assert shared.located(name) == str(shared.snapshot(name, moved))


def test_missing_files_are_found_without_a_list(tmp_path: Path) -> None:
    assert missing_file(FAST, VLM_FILES) == ""
    assert missing_file(tmp_path, VLM_FILES) == "config.json"
    (tmp_path / "config.json").write_text("{}")
    assert missing_file(tmp_path, VLM_FILES) == "*.safetensors"
    (tmp_path / "consolidated.safetensors").touch()
    assert missing_file(tmp_path, VLM_FILES) == "*.safetensors"
    (tmp_path / WEIGHTS).symlink_to("nowhere")
    assert missing_file(tmp_path, VLM_FILES) == WEIGHTS
    (tmp_path / WEIGHTS).unlink()
    (tmp_path / WEIGHTS).touch()
    # An index that a conversion left behind, which names none of the files.
    (tmp_path / f"{WEIGHTS}.index.json").write_text('{"weight_map": {"a": "1.safetensors"}}')
    assert missing_file(tmp_path, VLM_FILES) == ""
