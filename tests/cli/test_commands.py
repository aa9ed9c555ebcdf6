"""The commands do what they say, on a real gateway and manager with models that answer at once."""

from __future__ import annotations

import io
import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from hostctl.local_stack import LocalStack
from testkit.images import RED_CIRCLE, png
from testkit.stacks import QuickStack, running
from tests.cli.commands import ANSI, Vision

pytestmark = pytest.mark.process
SAID = '{"a": 1}'
KEY = "key-of-the-tests"
_COLOR = re.compile(r"\x1b\[(?:\d+;)*3[0-8][;m]")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """Its models answer at once, behind a key."""
    changes = {"gateway.api_key": KEY}
    with running(tmp_path_factory.mktemp("stack"), changes, QuickStack) as stack:
        yield stack


def format_and_size(file: Path) -> tuple[str | None, tuple[int, int]]:
    with Image.open(file) as image:
        image.load()
        return image.format, image.size


class TestModels:
    def test_all_models_are_listed(self, vision: Vision) -> None:
        out = vision.well("models").out
        assert out.splitlines()[0].split() == ["NAME", "KIND", "STATE", "SIZE", "CAN", "ALSO", "PATH"]
        assert {line.split()[0] for line in out.splitlines()[1:] if line} == {
            "image-gen", "vlm-best", "vlm-fast",
        }  # fmt: skip
        assert ANSI not in out

    def test_a_closed_pipe_is_not_an_error(self, vision: Vision) -> None:
        process = vision.started("models")
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
        process.stderr.close()
        assert process.wait(60) in (0, 1)

    def test_a_model_is_loaded_listed_and_unloaded(self, vision: Vision) -> None:
        assert vision.well("warm", "moondream2", "--json").json["alias"] == "vlm-fast"
        (line,) = [x for x in vision.well("ps").out.splitlines() if x.startswith("vlm-fast")]
        assert line.split()[1] == "ready"
        assert "vlm-fast" in vision.well("ps", "--json").json["workers"]
        assert vision.well("evict", "vlm-fast").out == "vlm-fast: unloaded\n"
        assert vision.well("evict", "vlm-fast").out == "vlm-fast: was not loaded\n"

    def test_all_models_are_unloaded_together(self, vision: Vision) -> None:
        vision.well("warm", "vlm-fast")
        vision.well("warm", "vlm-best", "--keep-alive", "60")
        gone = vision.well("evict", "--all", "--json").json
        assert {answer["alias"] for answer in gone} == {"vlm-fast", "vlm-best"}
        assert vision.well("evict", "--all").out == "no model is loaded\n"

    def test_evict_needs_names_or_all(self, vision: Vision) -> None:
        assert vision("evict").status == 2
        assert vision("evict", "vlm-fast", "--all").status == 2

    def test_a_log_is_printed(self, vision: Vision) -> None:
        vision.well("warm", "vlm-best")
        assert len(vision.well("logs", "qwen2.5-vl", "-n", "2").out.splitlines()) == 2
        assert vision.well("logs", "vlm-best", "-n", "1", "--json").json["line"]
        assert vision("logs", "nobody").status == 1

    def test_a_log_is_followed_until_ctrl_c(self, vision: Vision) -> None:
        vision.well("warm", "vlm-best")
        follower = vision.started("logs", "vlm-best", "-f", "-n", "1")
        assert follower.stdout is not None
        assert follower.stdout.readline()  # it has started
        vision.well("ask", "hello", "--model", "vlm-best")
        assert any(b"/v1/chat/completions" in line for line in follower.stdout)
        follower.send_signal(signal.SIGINT)
        _, err = follower.communicate(timeout=20)
        assert (follower.returncode, err) == (130, b"")


class TestQuestions:
    def test_a_question_about_an_image_is_answered(self, vision: Vision) -> None:
        assert vision.well("ask", "photo.png", "what is this?").out == f"{SAID}\n"

    def test_the_question_or_an_image_can_come_from_stdin(self, vision: Vision) -> None:
        assert vision.well("ask", "photo.png", "-", stdin=b"what?").out == f"{SAID}\n"
        assert vision.well("ask", "-", "what?", stdin=png(RED_CIRCLE)).out == f"{SAID}\n"
        assert vision("ask", "-", "-", stdin=b"what?").status == 2

    def test_the_whole_answer_can_be_json(self, vision: Vision) -> None:
        answer = vision.well("ask", "photo.png", "what?", "-m", "vlm-fast", "--json").json
        assert answer["model"] == "vlm-fast"
        assert answer["choices"][0]["message"]["content"] == SAID

    def test_verbose_prints_tokens_and_times_to_stderr(self, vision: Vision) -> None:
        done = vision.well("ask", "hello", "--verbose")
        assert done.out == f"{SAID}\n"
        assert "prompt tokens" in done.err

    def test_the_text_in_an_image_is_printed(self, vision: Vision) -> None:
        assert vision.well("read", "photo.png").out == f"{SAID}\n"
        answer = vision.well("read", "photo.png", "--task", "caption", "--json").json
        assert (answer["task"], answer["result"]) == ("caption", SAID)

    @pytest.mark.parametrize(
        ("args", "why"),
        [
            (("ask", "photo.png"), "the text is missing"),
            (("ask", "absent.png", "what?"), "absent.png: cannot be read"),
            (("read", "own.txt"), "own.txt: not an image"),
            (("edit", "only words"), "expected an image"),
        ],
    )
    def test_wrong_usage_is_reported_with_the_reason(
        self, vision: Vision, args: tuple[str, ...], why: str
    ) -> None:
        (vision.folder / "own.txt").write_text("words")
        done = vision(*args)
        assert done.status == 2
        assert why in done.err


class TestImages:
    def test_an_image_is_written_to_the_named_file(self, vision: Vision) -> None:
        out = vision.well("draw", "a cat", "-o", "cat.jpg", "--size", "64x32", "--seed", "5").out
        assert out.startswith("cat.jpg  (64x32, seed 5, ")
        assert format_and_size(vision.folder / "cat.jpg") == ("JPEG", (64, 32))

    def test_several_images_are_numbered_and_have_their_seeds(self, vision: Vision) -> None:
        made = vision.well("draw", "x", "-n", "3", "--seed", "5", "-o", "c.webp", "--json").json
        assert [(p["path"], p["seed"]) for p in made["pictures"]] == [
            ("c-1.webp", 5), ("c-2.webp", 6), ("c-3.webp", 7),
        ]  # fmt: skip
        assert all((vision.folder / p["path"]).exists() for p in made["pictures"])

    def test_a_generated_name_overwrites_nothing(self, vision: Vision) -> None:
        for _ in range(2):
            vision.well("draw", "A cat!", "--seed", "5")
        assert sorted(f.name for f in vision.folder.glob("a-cat*")) == ["a-cat-5-2.png", "a-cat-5.png"]

    def test_an_image_can_be_piped(self, vision: Vision) -> None:
        with Image.open(io.BytesIO(vision.well("draw", "-", "-o", "-", stdin=b"a cat").raw)) as image:
            assert image.format == "PNG"

    def test_an_image_is_edited_within_a_mask(self, vision: Vision) -> None:
        Image.new("L", (128, 128), 255).save(vision.folder / "mask.png")
        args = ("edit", "photo.png", "a star", "--mask", "mask.png", "--strength", "0.5", "-o", "e.png")
        vision.well(*args)
        assert format_and_size(vision.folder / "e.png") == ("PNG", (128, 128))

    def test_an_invalid_file_name_is_reported_before_a_model_is_loaded(self, vision: Vision) -> None:
        vision.well("evict", "image-gen")
        assert vision("draw", "a cat", "-o", "cat.gif").status == 2
        assert vision("draw", "a cat", "-o", "absent/cat.png").status == 2
        assert not vision.well("ps", "--json").json["workers"].get("image-gen")


class TestRefusals:
    def test_an_error_of_the_api_is_printed(self, vision: Vision) -> None:
        done = vision("ask", "hello", "--model", "nobody")
        assert (done.status, done.out) == (1, "")
        assert done.err.startswith("vision: model 'nobody' does not exist; available: ")

    def test_with_json_it_is_the_api_s_error_object(self, vision: Vision) -> None:
        done = vision("draw", "x", "--size", "9x9", "--json")
        assert (done.status, done.out) == (1, "")
        assert json.loads(done.err)["error"]["param"] == "size"

    def test_this_machine_s_key_is_not_sent_to_another_one(self, afar: Vision) -> None:
        done = afar("ps")
        assert done.status == 4
        assert "VISION_KEY" in done.err

    def test_a_wrong_key_is_refused_and_a_valid_one_accepted(self, afar: Vision) -> None:
        assert afar("ps", "--key", "wrong").status == 4
        assert afar.well("ps", "--key", KEY, "--json").json["status"] == "ok"
        assert afar.well("models", VISION_KEY=KEY).out
        assert afar.well("models", GATEWAY_API_KEY=KEY).out

    @pytest.mark.parametrize(
        "args", [("pull",), ("rm", "vlm-fast"), ("doctor",), ("config", "check")], ids=lambda a: a[0]
    )
    def test_local_commands_refuse_another_machine(self, afar: Vision, args: tuple[str, ...]) -> None:
        done = afar(*args)
        assert done.status == 2
        assert "only on the machine of the stack" in done.err

    def test_without_a_server_the_error_has_the_fix(self, afar: Vision) -> None:
        done = afar("ps", "--host", "127.0.0.1:9")
        assert done.status == 3
        assert "no server responds at http://127.0.0.1:9" in done.err
        assert "check the host" in done.err


class TestTerminals:
    def test_a_terminal_has_colors_unless_no_color_is_set(self, vision: Vision) -> None:
        vision.well("warm", "vlm-fast")
        status, sent = vision.on_a_terminal("ps")
        assert status == 0
        assert _COLOR.search(sent)
        assert not _COLOR.search(vision.on_a_terminal("ps", NO_COLOR="1")[1])

    def test_draw_shows_the_steps_and_the_image(self, vision: Vision) -> None:
        status, sent = vision.on_a_terminal("draw", "x", "--seed", "3", VISION_PICTURES="kitty")
        assert status == 0
        assert "step 4 of 4" in sent
        assert "\x1b_Ga=T,f=100," in sent
        assert "x-3.png" in sent

    def test_the_shell_completes_aliases(self, vision: Vision) -> None:
        done = vision(
            "warm", _VISION_COMPLETE="complete_bash", COMP_WORDS="vision warm vlm", COMP_CWORD="2"
        )
        assert done.out.split() == ["vlm-best", "vlm-fast"]


def test_settings_are_checked(vision: Vision) -> None:
    assert vision.well("config", "check", "--json").json["models"] == [
        "image-gen",
        "vlm-best",
        "vlm-fast",
    ]
    (vision.folder / "bad.yaml").write_text("gateway:\n  prot: 1\n")
    done = vision("config", "check", "bad.yaml")
    assert done.status == 2
    assert "bad.yaml:2: gateway.prot" in done.err
    found = vision("config", "check", "bad.yaml", "--json")
    assert (found.status, found.json["valid"]) == (2, False)
