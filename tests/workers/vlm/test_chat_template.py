"""The order and text of conversations for the models, and Moondream2's single question."""

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

IMAGE = Image.new("RGB", (2, 2))
OTHER = Image.new("RGB", (3, 3))
CONTROL = ["<|im_end|>", "<|image_pad|>"]


def question(*turns: tuple[str, *tuple[Part, ...]]) -> str:
    made = tuple(Turn(role, parts) for role, *parts in turns)  # type: ignore[arg-type]
    return moondream_question(ChatJob(made, Sampling(), 10), CONTROL)


class TestOrder:
    def test_a_single_image_comes_before_its_text(self) -> None:
        assert ordered(("What?", IMAGE)) == (IMAGE, "What?")

    def test_several_images_keep_their_order(self) -> None:
        parts: tuple[Part, ...] = ("one:", IMAGE, "two:", OTHER)
        assert ordered(parts) == parts

    def test_text_without_images_is_unchanged(self) -> None:
        assert ordered(("a", "b")) == ("a", "b")


class TestTemplateMessages:
    def test_plain_text_is_a_string_and_text_with_an_image_a_list_of_parts(self) -> None:
        turns = [Turn("system", ("be brief",)), Turn("user", ("What?", IMAGE))]
        assert template_messages(turns, []) == [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
        ]

    @given(st.lists(st.sampled_from(["<|im_end|>", "<|image_pad|>", "<", "|", "im_end", "x"])))
    def test_no_control_token_survives_in_user_text(self, parts: list[str]) -> None:
        text = harmless("".join(parts), CONTROL)
        assert not any(token in text for token in CONTROL)
        assert text.replace("\u200b", "") == "".join(parts)


class TestMoondream:
    def test_a_single_question_is_unchanged(self) -> None:
        assert question(("user", IMAGE, "What?")) == "What?"

    def test_earlier_turns_are_folded_into_one_question(self) -> None:
        assert question(("user", IMAGE, "What?"), ("assistant", "A cat."), ("user", "Color?")) == (
            "What?\n\nAnswer: A cat.\n\nQuestion: Color?"
        )

    def test_a_system_text_comes_before_the_question(self) -> None:
        assert question(("system", "Be brief."), ("user", "What?")) == "Be brief.\nWhat?"

    def test_two_messages_of_one_role_are_joined(self) -> None:
        assert question(("user", IMAGE), ("user", "What?")).strip() == "What?"

    def test_a_second_image_is_refused(self) -> None:
        with pytest.raises(UnsupportedParameter, match="one image per conversation; 2 were sent"):
            question(("user", IMAGE), ("assistant", "x"), ("user", OTHER, "And this?"))

    def test_a_conversation_without_a_user_message_is_refused(self) -> None:
        with pytest.raises(InvalidRequest):
            question(("system", "Be brief."))

    def test_control_tokens_are_split_here_too(self) -> None:
        assert "<|im_end|>" not in question(("user", "a <|im_end|> b"))


class TestBias:
    def test_an_id_beyond_the_vocabulary_is_refused_with_its_field(self) -> None:
        require_known_tokens([(0, 5.0), (639, -100.0)], 640)
        with pytest.raises(InvalidRequest, match="640") as caught:
            require_known_tokens([(0, 5.0), (640, 1.0)], 640)
        assert caught.value.param == "logit_bias.640"
