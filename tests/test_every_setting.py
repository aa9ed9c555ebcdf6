"""Every settings key has a test that shows its effect.

``CHANGED_BY`` names the test of each key. A missing key and a missing test fail here. The tests at the
end belong to no other file.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from contracts.settings import Settings
from contracts.settings.base import GIB
from contracts.settings.file import load
from contracts.settings.models import ImageSettings, VlmSettings
from hostctl.local_stack import ROOT, LocalStack
from manager.launcher.process import LaunchSpec, LocalLauncher, worker_argv
from testkit.images import RED_CIRCLE, ask
from testkit.stacks import MOST_TOKENS, demo_config

HERE = "test_every_setting.py"
GATEWAY = "gateway/test_settings_take_effect.py"
POOL = "manager/test_pool.py"
LOADS = "manager/test_pool_loads.py"
STOPS = "manager/test_pool_stops.py"
TURNS = "manager/test_pool_turns.py"
REPLACEMENT = "manager/test_pool_replacement.py"
URLS = "security/test_image_urls.py"
LIFE = "integration/test_life.py"
ACCESS = "security/test_origin_and_limits.py"

CHANGED_BY = {
    "gateway.host": (GATEWAY, "test_each_tier_listens_on_its_configured_address"),
    "gateway.port": (GATEWAY, "test_each_tier_listens_on_its_configured_address"),
    "gateway.api_key": (LIFE, "test_a_configured_key_is_required"),
    "gateway.cors_origins": ("gateway/test_access_control.py", "test_a_configured_origin_may_call_from_a_page_and_another_may_not"),
    "gateway.keys": ("gateway/test_auth.py", "test_keys_come_from_the_settings_the_environment_and_a_file_and_each_has_a_name"),
    "gateway.keys_file": ("gateway/test_auth.py", "test_keys_come_from_the_settings_the_environment_and_a_file_and_each_has_a_name"),
    "gateway.allowed_hosts": (ACCESS, "test_a_host_allowed_for_one_tier_is_not_allowed_for_the_other"),
    "gateway.rate_limit": ("gateway/test_access_control.py", "test_each_key_has_its_own_rate_limit_and_the_headers_report_it"),
    "gateway.max_concurrent_per_client": ("gateway/test_access_control.py", "test_a_client_can_not_exceed_its_limit_of_open_requests"),
    "gateway.max_body_mb": ("gateway/test_routes.py", "test_a_body_beyond_the_limit_is_a_413"),
    "gateway.public_url": ("gateway/test_image_links.py", "test_the_configured_public_url_takes_precedence"),
    "gateway.image_url_ttl_s": ("gateway/test_image_links.py", "test_an_image_expires"),
    "gateway.image_url_max_mb": ("gateway/test_image_links.py", "test_a_full_store_drops_the_oldest_images"),
    "gateway.heartbeat_s": ("gateway/test_heartbeat.py", "test_a_stream_that_is_slow_to_begin_sends_progress_comments"),
    "gateway.metrics": ("gateway/test_metrics.py", "test_access_to_metrics_is_configurable"),
    "gateway.manager_host": (GATEWAY, "test_the_manager_is_contacted_on_the_configured_host"),
    "gateway.manager_port": ("gateway/test_routes.py", "test_a_valid_request_goes_to_the_default_of_its_route_byte_for_byte"),
    "images.fetch": (URLS, "test_private_addresses_are_fetched_from_only_if_allowed"),
    "images.fetch_allow": (URLS, "test_private_addresses_are_fetched_from_only_if_allowed"),
    "images.fetch_timeout_s": (URLS, "test_the_time_for_an_image_is_as_configured"),
    "images.max_mb": (URLS, "test_the_size_of_an_image_is_as_configured"),
    "images.max_per_request": (URLS, "test_the_number_of_images_is_bounded"),
    "manager.host": (GATEWAY, "test_each_tier_listens_on_its_configured_address"),
    "manager.port": (GATEWAY, "test_each_tier_listens_on_its_configured_address"),
    "manager.allowed_hosts": (ACCESS, "test_a_host_allowed_for_one_tier_is_not_allowed_for_the_other"),
    "manager.docker_bridge": ("manager/test_docker_bridge.py", "test_it_listens_on_the_bridge_on_linux_if_the_manager_serves_only_loopback"),
    "manager.token": (GATEWAY, "test_the_token_goes_to_the_manager_on_both_paths"),
    "manager.idle_timeout_s": (POOL, "test_an_idle_worker_leaves_after_its_timeout_counted_from_the_end_of_its_last_request"),
    "manager.start_timeout_s": (LOADS, "test_a_load_without_progress_fails_and_its_process_is_reaped"),
    "manager.drain_timeout_s": (STOPS, "test_a_drain_ends_at_the_drain_timeout"),
    "manager.stop_timeout_s": (STOPS, "test_the_stop_ladder_ends_with_a_kill"),
    "manager.queue_limit": (POOL, "test_the_queue_of_each_alias_is_bounded"),
    "manager.queue_timeout_s": (POOL, "test_a_request_that_times_out_gets_an_error_and_the_load_continues"),
    "manager.max_wait_s": (TURNS, "test_the_loaded_model_keeps_serving_until_the_other_has_waited_long_enough"),
    "manager.stall_timeout_s": (REPLACEMENT, "test_a_worker_without_progress_is_killed_and_the_next_request_starts_it"),
    "manager.max_requests": (REPLACEMENT, "test_a_process_is_replaced_after_max_requests_without_losing_one"),
    "manager.standby": ("manager/test_standby.py", "test_one_standby_by_default_with_enough_memory_or_as_many_as_configured"),
    "manager.state_dir": (HERE, "test_learned_peaks_are_stored_in_the_configured_folder"),
    "manager.log_dir": (HERE, "test_the_log_folder_and_size_are_as_configured"),
    "manager.log_max_mb": (HERE, "test_the_log_folder_and_size_are_as_configured"),
    "memory.max_unified_memory_gb": (LIFE, "test_a_cold_model_loads_once_for_all_requests_shares_memory_in_turn_and_is_unloaded_when_idle"),
    "memory.safety_margin_gb": (HERE, "test_the_safety_margin_is_subtracted_from_the_budget"),
    "memory.recycle_growth": (REPLACEMENT, "test_the_allowed_growth_is_configurable"),
    "memory.recycle_after": (REPLACEMENT, "test_growth_of_the_first_requests_is_the_baseline"),
    "workers.wired_limit": (HERE, "test_the_wired_limit_is_passed_to_each_worker"),
    "logs.format": ("gateway/test_log_lines.py", "test_the_log_format_follows_the_settings"),
    "logs.prompts": ("gateway/test_log_lines.py", "test_prompts_are_logged_only_if_the_settings_allow_it"),
    "defaults.chat": (GATEWAY, "test_the_default_of_a_route_is_the_configured_alias"),
    "defaults.analyze": (GATEWAY, "test_the_default_of_a_route_is_the_configured_alias"),
    "defaults.generate": (GATEWAY, "test_the_default_of_a_route_is_the_configured_alias"),
    "defaults.edit": (GATEWAY, "test_the_default_of_a_route_is_the_configured_alias"),
    "models.kind": ("gateway/test_routes.py", "test_a_model_of_the_wrong_kind_is_refused"),
    "models.path": (LIFE, "test_a_missing_checkpoint_is_a_clear_error"),
    "models.revision": ("workers/hub/test_snapshots.py", "test_it_comes_from_the_settings"),
    "models.port": (HERE, "test_a_worker_uses_its_configured_port_and_token_limit"),
    "models.memory_gb": (LIFE, "test_a_cold_model_loads_once_for_all_requests_shares_memory_in_turn_and_is_unloaded_when_idle"),
    "models.names": ("gateway/test_routes.py", "test_a_model_is_found_by_alias_and_by_its_other_names"),
    "models.idle_timeout_s": (LIFE, "test_a_cold_model_loads_once_for_all_requests_shares_memory_in_turn_and_is_unloaded_when_idle"),
    "models.pinned": (POOL, "test_a_request_blocked_by_pinned_workers_only_is_refused_naming_them"),
    "models.preload": (LOADS, "test_a_preload_is_loaded_without_a_request"),
    "models.max_tokens": (HERE, "test_a_worker_uses_its_configured_port_and_token_limit"),
    "models.max_concurrency": ("workers/vlm/test_scheduling_order.py", "test_at_most_max_concurrency_sequences_decode"),
    "models.kv_bits": ("workers/vlm/test_kv_cache.py", "test_completions_are_correct_and_cached_prompts_smaller"),
    "models.prefix_cache_mb": (HERE, "test_the_engine_uses_its_settings"),
    "models.vision_cache_mb": (HERE, "test_the_engine_uses_its_settings"),
    "models.prefill_tokens": (HERE, "test_the_engine_uses_its_settings"),
    "models.image_prefix": (HERE, "test_the_engine_uses_its_settings"),
    "models.trust_remote_code": ("workers/hub/test_remote_code.py", "test_it_runs_if_the_settings_trust_it"),
    "models.family": ("workers/image/test_incomplete_checkpoints.py", "test_a_schnell_checkpoint_is_refused_as_dev"),
    "models.quantize": (HERE, "test_a_model_is_quantized_as_configured"),
    "models.save_quantized": ("workers/image/families/test_copies.py", "test_a_copy_is_saved_only_if_the_settings_and_the_download_call_for_it"),
    "models.steps": ("workers/image/test_jobs.py", "test_edits_have_their_own_number_of_steps"),
    "models.edit_steps": ("workers/image/test_jobs.py", "test_edits_have_their_own_number_of_steps"),
    "models.loras": ("workers/image/families/test_weights.py", "test_its_scale_determines_its_effect"),
    "models.residency": ("workers/image/families/test_images.py", "test_lean_unloads_text_encoders_and_generates_the_same"),
    "models.prompt_cache_mb": ("workers/image/families/test_caches.py", "test_the_settings_bound_a_model_s_prompts"),
    "models.vae_tiling": ("workers/image/families/test_memory.py", "test_flux1_decodes_in_tiles_if_memory_is_short_or_as_configured"),
    "models.cache_limit_mb": ("workers/image/families/test_memory.py", "test_the_settings_bound_mlx_s_cache"),
    "models.guidance": (HERE, "test_generation_uses_the_configured_guidance_and_size"),
    "models.size": (HERE, "test_generation_uses_the_configured_guidance_and_size"),
    "models.metadata": ("workers/image/test_routes.py", "test_an_image_contains_its_recipe_unless_the_settings_forbid_it"),
    "models.max_pixels": ("gateway/test_routes.py", "test_bad_input_is_refused_before_anything_is_loaded"),
}  # fmt: skip


def keys() -> set[str]:
    found = set()
    for section in set(Settings.model_fields) - {"models"}:
        model: Any = Settings.model_fields[section].annotation
        assert issubclass(model, BaseModel)
        found |= {f"{section}.{key}" for key in model.model_fields}
    for kind in (VlmSettings, ImageSettings):
        found |= {f"models.{key}" for key in kind.model_fields}
    return found


def test_every_key_has_a_test() -> None:
    assert set(CHANGED_BY) == keys()


def test_the_named_test_exists(subtests: pytest.Subtests) -> None:
    for key, (file, name) in CHANGED_BY.items():
        with subtests.test(key):
            file, name = CHANGED_BY[key]
            tree = ast.parse((ROOT / "tests" / file).read_text())
            functions = (ast.FunctionDef, ast.AsyncFunctionDef)
            assert name in {node.name for node in ast.walk(tree) if isinstance(node, functions)}


# --- tests that belong to no other file --------------------------------------------------------------


@pytest.mark.parametrize(("margin", "budget_gb"), [(0.0, 6), (1.5, 4.5)])
def test_the_safety_margin_is_subtracted_from_the_budget(
    tmp_path: Path, margin: float, budget_gb: float
) -> None:
    from manager.app import ManagerApp

    settings = load(demo_config(tmp_path, {"memory.safety_margin_gb": margin}), {})
    assert ManagerApp(settings).pool.budget == budget_gb * GIB


def test_the_log_folder_and_size_are_as_configured(tmp_path: Path) -> None:
    from manager.app import ManagerApp

    changes = {"manager.log_dir": str(tmp_path / "elsewhere"), "manager.log_max_mb": 0.001}
    pool = ManagerApp(load(demo_config(tmp_path, changes), {})).pool
    log = pool.workers["vlm-best"].log
    for _ in range(5):
        log.write(b"x" * 400 + b"\n")
    log.close()
    assert (tmp_path / "elsewhere" / "vlm-best.log").stat().st_size <= 1049
    assert len(list((tmp_path / "elsewhere").glob("vlm-best.log*"))) > 1


def test_learned_peaks_are_stored_in_the_configured_folder(tmp_path: Path) -> None:
    from manager.app import ManagerApp
    from manager.memory.peaks import peak_key

    changes = {"manager.state_dir": str(tmp_path / "elsewhere")}
    settings = load(demo_config(tmp_path, changes), {})
    peaks = ManagerApp(settings).peaks
    peaks.learn(peak_key(settings.models["vlm-best"]), 5 * GIB)
    peaks.save()
    assert (tmp_path / "elsewhere" / "peaks.json").exists()
    assert ManagerApp(settings).pool.workers["vlm-best"].charge.estimate == 5 * GIB


def test_the_wired_limit_is_passed_to_each_worker(tmp_path: Path) -> None:
    from workers.__main__ import parse_arguments, read_settings

    model = load(demo_config(tmp_path, {}), {}).models["vlm-best"]
    for size in (0.0, 1.5):
        file = demo_config(tmp_path, {"workers.wired_limit": size or "off"})
        argv = worker_argv(load(file, {}).workers)
        assert ("--wired-limit-gb" in argv) is (size > 0)
        spec = LaunchSpec("vlm-best", model.model_dump_json(), 1, "nonce")
        command = LocalLauncher(argv).command(spec)
        assert (parse_arguments(command[3:]).wired_limit_gb or 0) == size
        args = parse_arguments(["--alias", "vlm-best", "--config", str(file)])
        read_settings(args)  # by hand, from the file
        assert args.wired_limit_gb == size


@pytest.mark.process
@pytest.mark.mlx
def test_a_worker_uses_its_configured_port_and_token_limit(
    stack: LocalStack, http: httpx.Client
) -> None:
    endless = {"logit_bias": {"100": 100}, "model": "vlm-fast"}  # repeats one token
    answer = http.post("/v1/chat/completions", json=ask(RED_CIRCLE, "Continue.", **endless)).json()
    assert answer["usage"]["completion_tokens"] == MOST_TOKENS
    assert answer["choices"][0]["finish_reason"] == "length"
    port = stack.settings.models["vlm-fast"].port
    assert httpx.get(f"http://127.0.0.1:{port}/health").json()["alias"] == "vlm-fast"


def demo_image_model(**fields: Any) -> ImageSettings:
    base = {"kind": "image", "family": "flux1-schnell", "port": 1, "memory_gb": 1.0}
    path = str(ROOT / "demo" / "models" / "image-gen")
    return ImageSettings.model_validate({**base, "path": path, **fields})


def test_generation_uses_the_configured_guidance_and_size() -> None:
    from testkit.fakes.engine import FakeEngine
    from tests.workers.apps import worker

    engine = FakeEngine()
    with worker(engine, demo_image_model(guidance=1.25, size="48x32")) as client:
        answer = client.post("/v1/images/generations", json={"prompt": "x"})
    assert answer.json()["size"] == "48x32"
    (job,) = engine.jobs
    assert (job.guidance, job.width, job.height) == (1.25, 48, 32)


@pytest.mark.mlx
@pytest.mark.process
def test_the_engine_uses_its_settings() -> None:
    """In a child process, which prints the limits of the caches and of prefill."""
    code = (
        "import sys; from contracts.settings.models import VlmSettings; from workers.vlm.engine import VlmEngine\n"
        "for spec in sys.argv[1:]:\n"
        "  s = VlmSettings.model_validate_json(spec); e = VlmEngine('a', s)\n"
        "  e.load(lambda phase, detail, download=None: None); r = e.runner\n"
        "  print(r.prefixes._limit, r.features._limit, e.scheduler.budget._max_chunk, r.architecture.bidirectional)"
    )
    path = str(ROOT / "demo" / "models" / "vlm-fast")
    changes: list[dict[str, Any]] = [
        {},
        {
            "prefix_cache_mb": 3,
            "vision_cache_mb": 2,
            "prefill_tokens": 64,
            "image_prefix": "bidirectional",
        },
    ]
    base = {"kind": "vlm", "path": path, "port": 1, "memory_gb": 1.0}
    specs = [VlmSettings.model_validate({**base, **c}).model_dump_json() for c in changes]
    assert output_of(code, *specs).splitlines() == [
        f"{512 << 20} {128 << 20} 512 False",
        f"{3 << 20} {2 << 20} 64 True",
    ]


@pytest.mark.mlx
@pytest.mark.process
def test_a_model_is_quantized_as_configured() -> None:
    """In a child process, which prints the number of quantized layers."""
    code = (
        "import sys; from pathlib import Path; from workers.backend import runtime; runtime.prepare();"
        "from contracts.settings.models import ImageSettings; from workers.image import families\n"
        "for spec in sys.argv[1:]:\n"
        "  s = ImageSettings.model_validate_json(spec); m = families.load(Path(s.path), s).model\n"
        "  print(sum('Quantized' in type(x).__name__ for _, x in m.transformer.named_modules()))"
    )
    specs = [demo_image_model(quantize=bits).model_dump_json() for bits in (None, 8)]
    whole, quantized = (int(line) for line in output_of(code, *specs).splitlines()[-2:])
    assert whole == 0
    assert quantized > 20


def output_of(code: str, *arguments: str) -> str:
    """The output of *code* in another Python process."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
