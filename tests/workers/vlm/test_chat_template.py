from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from contracts.errors import InvalidRequest, UnsupportedParameter
from workers.engine import ChatJob, Part, Sampling, Turn
from workers.vlm.chat_template import (
    harmless,
    moondream_question,
    ordered,
    require_known_tokens,
    template_messages,
)

PICTURE = Image.new("RGB", (2, 2))
OTHER = Image.new("RGB", (3, 3))
CONTROL = ["<|im_end|>", "<|image_pad|>"]


def question(*turns: tuple[str, *tuple[Part, ...]]) -> str:
    made = tuple(Turn(role, parts) for role, *parts in turns)  # type: ignore[arg-type]
    return moondream_question(ChatJob(made, Sampling(), 10), CONTROL)


class TestOrder:
    def test_a_single_image_stands_before_its_text(self) -> None:
        assert ordered(("What?", PICTURE)) == (PICTURE, "What?")

    def test_several_images_keep_their_order(self) -> None:
        parts: tuple[Part, ...] = ("one:", PICTURE, "two:", OTHER)
        assert ordered(parts) == parts

    def test_text_alone_stays(self) -> None:
        assert ordered(("a", "b")) == ("a", "b")


class TestTemplateMessages:
    def test_plain_text_is_a_string_and_the_rest_a_list_of_parts(self) -> None:
        turns = [Turn("system", ("be brief",)), Turn("user", ("What?", PICTURE))]
        assert template_messages(turns, []) == [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
        ]

    @given(st.lists(st.sampled_from(["<|im_end|>", "<|image_pad|>", "<", "|", "im_end", "x"])))
    def test_no_control_token_survives_in_what_a_user_writes(self, parts: list[str]) -> None:
        text = harmless("".join(parts), CONTROL)
        assert not any(token in text for token in CONTROL)
        assert text.replace("\u200b", "") == "".join(parts)


class TestMoondream:
    def test_a_question_is_itself(self) -> None:
        assert question(("user", PICTURE, "What?")) == "What?"

    def test_earlier_turns_are_folded_into_its_form(self) -> None:
        assert question(("user", PICTURE, "What?"), ("assistant", "A cat."), ("user", "Color?")) == (
            "What?\n\nAnswer: A cat.\n\nQuestion: Color?"
        )

    def test_a_system_text_stands_in_front_of_the_question(self) -> None:
        assert question(("system", "Be brief."), ("user", "What?")) == "Be brief.\nWhat?"

    def test_two_messages_of_one_speaker_are_one(self) -> None:
        assert question(("user", PICTURE), ("user", "What?")).strip() == "What?"

    def test_a_second_image_is_refused(self) -> None:
        with pytest.raises(UnsupportedParameter, match="one image per conversation; 2 were sent"):
            question(("user", PICTURE), ("assistant", "x"), ("user", OTHER, "And this?"))

    def test_a_conversation_without_a_user_is_refused(self) -> None:
        with pytest.raises(InvalidRequest):
            question(("system", "Be brief."))

    def test_control_tokens_are_taken_apart_here_too(self) -> None:
        assert "<|im_end|>" not in question(("user", "a <|im_end|> b"))


class TestBias:
    def test_an_id_beyond_the_vocabulary_is_refused_by_name(self) -> None:
        require_known_tokens([(0, 5.0), (639, -100.0)], 640)
        with pytest.raises(InvalidRequest, match="640") as caught:
            require_known_tokens([(0, 5.0), (640, 1.0)], 640)
        assert caught.value.param == "logit_bias.640"
