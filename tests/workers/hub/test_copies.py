"""Which copy of a repository is loaded: the Hub away or silent, main moved on, a revision asked for."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testkit.hub_server import hub
from tests.workers.hub.test_downloads import FAST, NOBODY, Hub, Pull, same
from workers.hub.copies import lacking
from workers.hub.model_files import VLM_FILES

pytestmark = pytest.mark.process

TAG = "2025-06-21"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with hub({}) as served:
        asked = Hub(served, tmp_path_factory.mktemp("home"))
        yield asked
        asked.close()


@pytest.fixture
def later(tmp_path: Path) -> Path:
    """The same model, with other weights."""
    folder = tmp_path / "later"
    shutil.copytree(FAST, folder)
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    return folder


def offline(shared: Hub, name: str, **fields: Any) -> str:
    """What a pull without a connection says at its end."""
    ended = Pull(NOBODY, shared.home, name, **fields).ended()
    return ended.said[-1] if ended.said else ""


class TestANetworkThatSwallowsPackets:
    """It takes connections, and no answer ever comes."""

    def test_a_whole_copy_is_loaded_within_seconds_and_the_log_says_so(self, shared: Hub) -> None:
        name = shared.new()
        whole = shared.located(name)
        shared.served.silent = True
        began = time.monotonic()
        assert shared.located(name, answer_s=0.3) == whole
        assert time.monotonic() - began < 5
        assert "the Hub is of no help (it does not answer); the copy on the disk is used" in shared.said

    def test_a_commit_whose_files_are_there_needs_no_question(self, shared: Hub) -> None:
        name = shared.new()
        commit = shared.served.commit(name)
        whole = shared.located(name, revision=(commit, True))
        shared.served.seen.clear()
        assert shared.located(name, revision=(commit, True)) == whole
        assert [seen.path for seen in shared.served.seen if name in seen.path] == []

    def test_the_limits_are_seconds(self) -> None:
        from workers.hub import remote

        assert remote.ANSWER_S <= 5
        assert remote.PATIENT_S <= 15


class TestAHubThatStumbles:
    def test_a_fault_that_passes_is_asked_past(self, shared: Hub) -> None:
        for status in (429, 500, 503):
            name = shared.new()
            shared.served.stumbles[name] = [status]
            assert shared.located(name) == str(shared.snapshot(name))
            assert f"answers with status {status}; asking again" in shared.said

    def test_one_that_lasts_is_told_in_our_words(self, shared: Hub) -> None:
        name = shared.new()
        for status, words in ((429, "limits how often this address may ask"), (503, "it has a fault")):
            shared.served.refusals[name] = (status, "")
            line = shared.located(name)
            assert f"status {status}: " in line
            assert words in line

    def test_a_whole_copy_waits_for_no_second_answer(self, shared: Hub) -> None:
        name = shared.new()
        whole = shared.located(name)
        shared.served.refusals[name] = (503, "")
        shared.served.seen.clear()
        assert shared.located(name) == whole
        assert len([seen for seen in shared.served.seen if name in seen.path]) == 1


class TestMainHasMovedOn:
    def test_the_old_copy_serves_until_the_new_one_is_whole(self, shared: Hub, later: Path) -> None:
        name = shared.new()
        old = shared.located(name)
        moved = shared.served.move(name, later)
        shared.served.seen.clear()
        assert shared.located(name) == old
        assert moved in shared.said
        assert shared.served.downloads() == []
        # A pull fetches it, beside the old one.
        shared.served.seen.clear()
        shared.pull(name).succeeded()
        assert len(shared.served.downloads()) == 1  # only what has changed
        assert shared.located(name) == str(shared.snapshot(name, moved))
        assert same(later, shared.snapshot(name, moved))
        assert same(FAST, Path(old))

    def test_a_download_that_was_cut_takes_nothing_away(self, shared: Hub, later: Path) -> None:
        name = shared.new()
        shared.pull(name).succeeded()
        shared.served.move(name, later)
        shared.served.bytes_per_second = 2e6
        assert shared.located(name, stop_at=1, newest=True) == "stopped while loading"
        said = offline(shared, name)
        assert "the copy on the disk is used" in said

    def test_a_cache_whose_main_was_moved_by_others_still_has_its_old_copy(
        self, shared: Hub, later: Path
    ) -> None:
        """``hf download`` moves ``refs/main`` before it fetches."""
        name = shared.new()
        old = shared.located(name)
        moved = shared.served.move(name, later)
        (shared.folder(name) / "refs" / "main").write_text(moved)
        assert "the copy on the disk is used" in offline(shared, name)
        shared.served.silent = False
        assert shared.located(name) == old


class TestARevision:
    def test_a_commit_a_tag_and_a_branch_are_loaded_as_asked(self, shared: Hub, later: Path) -> None:
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

    def test_nothing_else_is_loaded_in_its_place(self, shared: Hub) -> None:
        name = shared.new()
        shared.pull(name).succeeded()
        assert (
            shared.pull(name, revision="v2")
            .failed()
            .endswith(f"{name} has no such revision on the Hugging Face Hub")
        )
        assert "is not downloaded yet" in offline(shared, name, revision="v2")

    def test_a_preference_that_is_not_there_is_main(self, shared: Hub) -> None:
        name = shared.new()
        assert shared.located(name, revision=(TAG, False)) == str(shared.snapshot(name))
        assert f"has no revision {TAG}; main is used" in shared.said

    def test_a_cache_that_was_fetched_by_commit_loads_offline(self, shared: Hub) -> None:
        """``hf download --revision SHA`` writes no ref."""
        name = shared.new()
        shared.located(name)
        shutil.rmtree(shared.folder(name) / "refs")
        assert "the copy on the disk is used" in offline(shared, name)
        assert offline(shared, name, revision=shared.served.commit(name)) == ""


class TestWhatIsFetched:
    def test_weights_that_are_there_twice_are_fetched_once(self, shared: Hub, tmp_path: Path) -> None:
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

    def test_a_repository_without_weights_is_told_so_before_anything_is_fetched(
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

    def test_the_first_report_says_how_much_where_to_and_what_is_free(self, shared: Hub) -> None:
        name = shared.new()
        first, *_ = shared.pull(name).succeeded()
        cache = shared.home / "hub"
        assert first["detail"].startswith(f"7.4 MB into {cache}, ")
        assert first["detail"].endswith(" free")
        assert first["download"]["done_bytes"] == 0
        assert first["download"]["total_bytes"] > 7_000_000

    def test_hashes_are_compared_in_a_phase_of_its_own(self, shared: Hub) -> None:
        *_, last, ready = shared.pull(shared.new()).succeeded()
        assert ready["phase"] == "ready"
        assert last["phase"] == "verifying"
        assert last["detail"] == "7.4 of 7.4 MB"
        assert last["download"]["verified_bytes"] == last["download"]["total_bytes"]


class TestACopyOfAnOldLibrary:
    """One whose list of files was not kept (``trees/``)."""

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

    def test_one_that_lacks_a_file_is_not_taken_for_whole(self, shared: Hub, name: str) -> None:
        shutil.rmtree(shared.folder(name) / "trees")
        assert "the copy on the disk is used" in offline(shared, name)
        (shared.snapshot(name) / "model-00002-of-00002.safetensors").unlink()
        reason = offline(shared, name)
        assert (
            f"{name} is downloaded in part only (model-00002-of-00002.safetensors is missing), and the"
            " Hugging Face Hub is of no help"
        ) in reason

    def test_online_the_hub_is_asked_for_the_list(self, shared: Hub, name: str, later: Path) -> None:
        """What looks whole by itself, and is not by the Hub's list, does not stand in for main."""
        shutil.rmtree(shared.folder(name) / "trees")
        (shared.snapshot(name) / "tokenizer.json").unlink()
        moved = shared.served.move(name, later)
        fresh = Pull(shared.served.url, shared.home, name).ended()
        assert fresh.status == 0
        assert shared.located(name) == str(shared.snapshot(name, moved))


def test_what_a_checkpoint_lacks_is_seen_by_its_files(tmp_path: Path) -> None:
    assert lacking(FAST, VLM_FILES) == ""
    assert lacking(tmp_path, VLM_FILES) == "config.json"
    (tmp_path / "config.json").write_text("{}")
    assert lacking(tmp_path, VLM_FILES) == "*.safetensors"
    (tmp_path / "consolidated.safetensors").touch()
    assert lacking(tmp_path, VLM_FILES) == "*.safetensors"
    (tmp_path / WEIGHTS).symlink_to("nowhere")
    assert lacking(tmp_path, VLM_FILES) == WEIGHTS
    (tmp_path / WEIGHTS).unlink()
    (tmp_path / WEIGHTS).touch()
    # An index that a conversion left behind names none of the files.
    (tmp_path / f"{WEIGHTS}.index.json").write_text('{"weight_map": {"a": "1.safetensors"}}')
    assert lacking(tmp_path, VLM_FILES) == ""
