"""A download that is quantized at load is saved quantized once, and later loads use the copy."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from contracts.settings.models import ImageSettings
from tests.workers.conftest import image_settings
from tests.workers.image.families.conftest import Load, Make
from tests.workers.image.families.jobs import DISTINCT, first_job, images
from workers.engine import LoadError
from workers.image.families import copies
from workers.image.families.copies import Copy, copy_of

pytestmark = [pytest.mark.mlx, pytest.mark.usefixtures("uncompiled")]

COMMIT = "0123456789abcdef0123456789abcdef01234567"
KLEIN = "flux2-klein-4b"
SAVING = "saving a quantized copy"
Download = Callable[..., Path]


@pytest.fixture
def download(tiny: Make, tmp_path: Path) -> Download:
    """Puts a tiny checkpoint into a Hugging Face cache; returns its snapshot's folder."""

    def make(family: str, bits: int | None = None) -> Path:
        snapshot = tmp_path / "hub" / f"models--x--{family}" / "snapshots" / COMMIT
        shutil.copytree(tiny(family, bits), snapshot)
        return snapshot

    return make


def without_weights(snapshot: Path) -> None:
    """Leave only the copy of *snapshot* to load from."""
    for file in snapshot.rglob("*.safetensors"):
        file.unlink()


def home_of(snapshot: Path) -> Path:
    return snapshot.parents[1] / copies.FOLDER


def copies_in(snapshot: Path) -> list[str]:
    home = home_of(snapshot)
    return sorted(p.name for p in home.iterdir() if p.is_dir()) if home.exists() else []


def the_copy(snapshot: Path, **fields: Any) -> Copy:
    copy = copy_of(snapshot, settings(snapshot, **fields))
    assert copy is not None
    return copy


def settings(snapshot: Path, **fields: Any) -> ImageSettings:
    return image_settings(snapshot, **{"family": KLEIN, "quantize": 4, **fields})


@pytest.mark.parametrize("name", DISTINCT)
def test_a_copy_generates_bit_by_bit_the_same(load: Load, download: Download, name: str) -> None:
    job, snapshot = first_job(name), download(name)
    expected = images(load(name, quantize=4).events(job))
    first = load(name, folder=snapshot, quantize=4, residency="lean")
    assert SAVING in first.phases
    assert copies_in(snapshot) == [the_copy(snapshot).folder.name]
    assert images(first.events(job)) == expected
    without_weights(snapshot)
    for residency in ("lean", "fast"):
        later = load(name, folder=snapshot, quantize=4, residency=residency)
        assert SAVING not in later.phases
        assert images(later.events(job)) == expected
        assert later.engine._adapter.model.bits == 4


def test_a_fast_model_saves_a_copy_and_reports_it(
    load: Load, download: Download, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    snapshot = download(KLEIN)
    loaded = load(KLEIN, folder=snapshot, quantize=8)
    assert [*dict.fromkeys(loaded.phases)] == ["importing", "loading", SAVING, "warming up"]
    assert the_copy(snapshot, quantize=8).is_whole()
    assert f"saving a copy at 8 bits to {the_copy(snapshot, quantize=8).folder}" in caplog.text
    assert "saved the 8-bit copy" in caplog.text


def test_a_lean_model_reads_the_copy_for_each_new_prompt(load: Load, download: Download) -> None:
    snapshot = download(KLEIN)
    loaded = load(KLEIN, folder=snapshot, quantize=4, residency="lean")
    without_weights(snapshot)
    for prompt in ("a cat", "a dog"):
        loaded.generate(prompt, width=16, height=16, steps=1)
    # If the copy is removed, it continues with the original weights.
    again = load(KLEIN, folder=download_again(snapshot), quantize=4, residency="lean")
    shutil.rmtree(home_of(snapshot))
    assert again.generate("a bird", width=16, height=16, steps=1).size == (16, 16)


def download_again(snapshot: Path) -> Path:
    """*snapshot*, whose weights were removed, with random ones of the right names and shapes."""
    from testkit import random_models

    fresh = snapshot.parents[2] / "fresh"
    random_models.write(fresh, KLEIN, tiny=True, bits=None)
    shutil.copytree(fresh, snapshot, dirs_exist_ok=True)
    return snapshot


def test_a_lean_text_encoder_is_unloaded_before_the_rest_is_computed(
    load: Load, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workers.image.families.adapter import Adapter

    computed: list[tuple[str, bool]] = []
    compute = Adapter._compute

    def computing(self: Any, network: Any) -> None:
        compute(self, network)
        computed.append((type(network).__name__, self.model.text_encoder is None))

    monkeypatch.setattr(Adapter, "_compute", computing)
    load(KLEIN, folder=download(KLEIN), quantize=4, residency="lean")
    assert computed[0] == ("Qwen3TextEncoder", False)
    assert [gone for _, gone in computed[1:3]] == [True, True]


def test_a_copy_is_saved_only_if_the_settings_and_the_download_call_for_it(
    load: Load, download: Download, tiny: Make
) -> None:
    snapshot = download(KLEIN)
    lora = [{"path": "x.safetensors"}]
    changes: tuple[dict[str, Any], ...] = (
        {"quantize": None},
        {"save_quantized": False},
        {"loras": lora},
    )
    for change in changes:
        assert copy_of(snapshot, settings(snapshot, **change)) is None
    own = tiny(KLEIN)  # the user's own folder
    assert copy_of(own, settings(own)) is None
    quantized = download("z-image-turbo", 4)
    for folder, fields in (
        (snapshot, {"save_quantized": False, "quantize": 4}),
        (quantized, {"quantize": 4}),
    ):
        name = KLEIN if folder == snapshot else "z-image-turbo"
        assert SAVING not in load(name, folder=folder, **fields).phases
        assert copies_in(folder) == []


def test_without_disk_space_no_copy_is_saved_and_the_model_loads(
    load: Load, download: Download, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    snapshot = download(KLEIN)
    monkeypatch.setattr(copies, "free_bytes", lambda folder: copies.KEPT_FREE_BYTES + 1000)
    caplog.set_level(logging.INFO)
    loaded = load(KLEIN, folder=snapshot, quantize=4, residency="lean")
    assert images(loaded.events(first_job(KLEIN)))
    assert copies_in(snapshot) == []
    assert "no 4-bit copy is saved" in caplog.text
    assert "save_quantized" in caplog.text


def test_a_failed_save_is_a_warning_and_leaves_nothing(
    load: Load, download: Download, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    snapshot = download(KLEIN)
    failing = iter([None, OSError(28, "No space left on device")])
    sync = copies._sync

    def full(path: Path) -> None:
        if error := next(failing, None):
            raise error
        sync(path)

    monkeypatch.setattr(copies, "_sync", full)
    loaded = load(KLEIN, folder=snapshot, quantize=4)
    assert images(loaded.events(first_job(KLEIN)))
    assert copies_in(snapshot) == []
    assert "No space left on device" in caplog.text
    # A cache that cannot be written does not fail the load, either.
    monkeypatch.setattr(copies, "_sync", sync)
    shutil.rmtree(home_of(snapshot))
    home_of(snapshot).write_text("in the way")
    assert images(load(KLEIN, folder=snapshot, quantize=4).events(first_job(KLEIN)))


def test_a_load_stopped_while_it_saves_leaves_nothing(download: Download) -> None:
    from workers.image import families

    snapshot = download(KLEIN)

    def report(phase: Any, detail: str, download: Any = None) -> None:
        if "0 bytes" not in detail:
            raise LoadError("stopped while loading")

    with ThreadPoolExecutor(1) as thread, pytest.raises(LoadError, match="stopped"):
        thread.submit(families.load, snapshot, settings(snapshot), report).result()
    assert copies_in(snapshot) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from workers.backend import runtime
runtime.prepare()
import mlx.core as mx
mx.disable_compile()
from contracts.settings.models import ImageSettings
from workers.image import families
from workers.image.families import copies
write, parts = copies.Saver._write, []
def killed(self, folder, network):
    write(self, folder, network)
    parts.append(folder)
    if len(parts) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
copies.Saver._write = killed
folder = Path(sys.argv[1])
settings = ImageSettings(kind="image", family="flux2-klein-4b", path=str(folder), port=1, memory_gb=1,
                         quantize=4)
families.load(folder, settings, lambda *report: None)
"""


@pytest.mark.process
def test_an_interrupted_save_is_not_used_and_is_repeated(load: Load, download: Download) -> None:
    snapshot = download(KLEIN)
    done = subprocess.run([sys.executable, "-c", KILLED, str(snapshot)], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert [name.endswith(".partial") for name in copies_in(snapshot)] == [True]
    assert not the_copy(snapshot).is_whole()
    loaded = load(KLEIN, folder=snapshot, quantize=4)
    assert SAVING in loaded.phases
    assert copies_in(snapshot) == [the_copy(snapshot).folder.name]
    assert the_copy(snapshot).is_whole()


def test_a_damaged_copy_is_ignored_and_written_again(load: Load, download: Download) -> None:
    snapshot = download(KLEIN)
    expected = images(load(KLEIN, folder=snapshot, quantize=4).events(first_job(KLEIN)))
    copy = the_copy(snapshot)
    weights = copy.folder / "transformer" / "0.safetensors"

    def truncated() -> None:
        weights.write_bytes(weights.read_bytes()[:-100])

    def zeros() -> None:
        weights.write_bytes(b"\0" * weights.stat().st_size)

    def missing() -> None:
        weights.unlink()

    def no_manifest() -> None:
        (copy.folder / "copy.json").write_text("[]")

    def another_network() -> None:  # consistent with the manifest, but not klein's
        shutil.copy(copy.folder / "vae" / "0.safetensors", weights)
        manifest = json.loads((copy.folder / "copy.json").read_text())
        manifest["files"]["transformer/0.safetensors"] = weights.stat().st_size
        (copy.folder / "copy.json").write_text(json.dumps(manifest))

    for damage in (truncated, zeros, missing, no_manifest, another_network):
        assert copy.is_whole()
        damage()
        assert copy.is_whole() == (damage in (zeros, another_network)), damage.__name__
        loaded = load(KLEIN, folder=snapshot, quantize=4)
        assert SAVING in loaded.phases, damage.__name__
        assert copies_in(snapshot) == [copy.folder.name]
    assert images(load(KLEIN, folder=snapshot, quantize=4).events(first_job(KLEIN))) == expected


def test_a_copy_of_another_version_is_replaced_and_one_of_other_bits_is_kept(
    load: Load, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = download(KLEIN)
    load(KLEIN, folder=snapshot, quantize=8)
    monkeypatch.setattr(copies, "_version", lambda: "-mflux0.0.1")
    load(KLEIN, folder=snapshot, quantize=4)
    monkeypatch.undo()
    assert len(copies_in(snapshot)) == 1  # the other version removed ours
    load(KLEIN, folder=snapshot, quantize=8)
    load(KLEIN, folder=snapshot, quantize=4)
    assert copies_in(snapshot) == sorted(
        the_copy(snapshot, quantize=bits).folder.name for bits in (4, 8)
    )


def test_only_one_process_writes_a_copy(load: Load, download: Download) -> None:
    snapshot = download(KLEIN)
    home_of(snapshot).mkdir()
    lock = copies._locked(home_of(snapshot))
    assert lock is not None
    assert SAVING not in load(KLEIN, folder=snapshot, quantize=4).phases
    assert copies_in(snapshot) == []
    os.close(lock)
    assert SAVING in load(KLEIN, folder=snapshot, quantize=4).phases


def test_a_copy_is_removed_with_its_download_and_does_not_affect_other_tools(
    load: Load, download: Download
) -> None:
    from huggingface_hub import scan_cache_dir

    from hostctl.weights import purge_steps

    snapshot = download(KLEIN)
    load(KLEIN, folder=snapshot, quantize=4)
    hub = snapshot.parents[2]
    scanned = scan_cache_dir(hub)
    assert not scanned.warnings
    assert [repo.repo_id for repo in scanned.repos] == [f"x/{KLEIN}"]
    model = settings(Path(f"x/{KLEIN}"))
    config: Any = type("Settings", (), {"models": {"image": model}})()
    (step,) = purge_steps(config, hub)
    assert the_copy(snapshot).folder.is_relative_to(step.path)
