"""Prompts as chat templates write them: every turn is plain text, and what a template cannot do is said."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from PIL import Image

from cos.engines.chat import ChatPrompt
from cos.engines.vocabulary import HfVocabulary
from cos.search.errors import InputError
from cos.search.prompt import Prompt, Turn
from cos.search.types import Picture
from tests.engines.small_tokenizer import CONTROLS, SPELT, tokenizer

PICTURE = Picture(Image.new("RGB", (4, 4)), "digest")

PARTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
    "{% if c.type == 'image' %}<IMG_CONTEXT>\n{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""As of a model that sees."""
STRINGS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""As of a model that knows text only: a list of parts is an error of types."""
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + PARTS
DROPS_SYSTEM = PARTS.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
PICTURE_LAST = PARTS.replace(
    "{% if c.type == 'image' %}<IMG_CONTEXT>\n{% else %}{{ c.text }}{% endif %}{% endfor %}",
    (
        "{% if c.type == 'text' %}{{ c.text }}{% endif %}{% endfor %}"
        "{% for c in m.content if c.type == 'image' %}\n<IMG_CONTEXT>{% endfor %}"
    ),
)
ALTERNATES = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}" + PARTS
)


class Template:
    """Renders a chat template with a small tokenizer, as a checkpoint's own does."""

    def __init__(self, template: str) -> None:
        self.tokenizer = tokenizer()
        self.tokenizer.chat_template = template
        self.vocabulary = HfVocabulary(self.tokenizer)
        self.prompt = ChatPrompt(self.vocabulary, self.tokenizer)

    def text(self, *turns: tuple[str, str], picture: Picture | None = None, is_raw: bool = False) -> str:
        """A prompt, control tokens spelt out."""
        return self.vocabulary.decode(self.ids(*turns, picture=picture, is_raw=is_raw))

    def ids(self, *turns: tuple[str, str], picture: Picture | None = None, is_raw: bool = False) -> list[int]:
        return self.prompt.render(Prompt(turns_of(turns), picture, is_raw))


def turns_of(turns: Sequence[tuple[Any, str]]) -> tuple[Turn, ...]:
    return tuple(Turn(role, text) for role, text in turns)


def said(role: str, text: str) -> str:
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


ASSISTANT = "<|im_start|>assistant\n"


def test_a_question_stands_where_the_chat_template_puts_it() -> None:
    template = Template(PARTS)
    assert template.text(("user", "How much?")) == said("user", "How much?") + ASSISTANT
    shown = template.text(("user", "How much?"), picture=PICTURE)
    assert shown == said("user", "<IMG_CONTEXT>\nHow much?") + ASSISTANT


@pytest.mark.parametrize("template", [PARTS, STRINGS])
def test_every_turn_stands_where_the_chat_template_puts_it(template: str) -> None:
    turns = [("system", "Count."), ("user", "How much?"), ("assistant", "Six."), ("user", "Sure?")]
    assert Template(template).text(*turns) == "".join(said(role, text) for role, text in turns) + ASSISTANT


@pytest.mark.parametrize("template", [PARTS, STRINGS, PICTURE_LAST])
def test_a_last_turn_of_the_assistants_is_left_open(template: str) -> None:
    opened = Template(template).text(("user", "How much?"), ("assistant", "First, "))
    assert opened == said("user", "How much?") + ASSISTANT + "First, "


def test_what_is_written_next_continues_an_open_turn_as_it_would_a_begun_one() -> None:
    template = Template(PARTS)
    begun = [*template.ids(("user", "How much?")), *template.vocabulary.encode("First")]
    assert template.ids(("user", "How much?"), ("assistant", "First")) == begun


@pytest.mark.parametrize("template", [NO_SYSTEM, DROPS_SYSTEM, ALTERNATES])
def test_a_system_turn_without_a_place_stands_before_the_users_first(template: str) -> None:
    text = Template(template).text(("system", "Count."), ("user", "How much?"), picture=PICTURE)
    assert text == said("user", "<IMG_CONTEXT>\nCount.\n\nHow much?") + ASSISTANT


@pytest.mark.parametrize("template", [PARTS, NO_SYSTEM])
def test_the_picture_is_shown_in_the_first_of_the_users_turns(template: str) -> None:
    turns = [("user", "How much?"), ("assistant", "Six."), ("user", "Sure?")]
    text = Template(template).text(*turns, picture=PICTURE)
    assert text.count("<IMG_CONTEXT>") == 1
    assert text.startswith("<|im_start|>user\n<IMG_CONTEXT>\nHow much?")


def test_a_raw_prompt_has_no_chat_template() -> None:
    assert Template(PARTS).text(("user", "How much? "), ("assistant", "Six."), is_raw=True) == "How much? Six."


def test_a_raw_prompt_begins_as_the_tokenizer_begins_texts() -> None:
    from tokenizers.processors import TemplateProcessing

    template = Template(PARTS)
    begin = template.vocabulary.control_id("<|im_start|>")
    template.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", begin)]
    )
    assert template.tokenizer.encode("a")[0] == begin
    assert template.ids(("user", "How much?"), is_raw=True) == [begin, *template.vocabulary.encode("How much?")]
    assert template.text(("user", "How much?")) == said("user", "How much?") + ASSISTANT


@pytest.mark.parametrize("template", [PARTS, STRINGS, NO_SYSTEM])
@given(texts=SPELT)
def test_no_text_of_any_turn_adds_a_control_token(template: str, texts: str) -> None:
    rendering = Template(template)
    controls = {rendering.vocabulary.control_id(token) for token in CONTROLS}

    def count(text: str, *, is_raw: bool) -> int:
        turns = [("system", text), ("user", text), ("assistant", text), ("user", text), ("assistant", text)]
        return sum(token in controls for token in rendering.ids(*turns, is_raw=is_raw))

    for is_raw in (False, True):
        assert count(texts, is_raw=is_raw) == count("a", is_raw=is_raw)


def test_turns_that_a_chat_template_refuses_are_named_with_its_reason() -> None:
    with pytest.raises(
        InputError, match="does not put the turns user, user into the prompt once: roles must alternate"
    ):
        Template(ALTERNATES).text(("user", "How much?"), ("user", "Well?"))


def test_a_picture_needs_a_turn_of_the_users() -> None:
    with pytest.raises(InputError, match="a picture is shown in a turn of the user's, and the prompt has none"):
        Template(PARTS).text(("system", "Count."), picture=PICTURE)


def test_a_raw_prompt_has_no_place_for_a_picture() -> None:
    with pytest.raises(InputError, match="without chat template has no place for a picture"):
        Template(PARTS).text(("user", "How much?"), picture=PICTURE, is_raw=True)


def test_a_checkpoint_without_a_chat_template_takes_raw_prompts_only() -> None:
    rendering = Template(PARTS)
    rendering.tokenizer.chat_template = None
    assert rendering.text(("user", "How much?"), is_raw=True) == "How much?"
    with pytest.raises(InputError, match=r"does not put the question into the prompt once: .*chat_template"):
        rendering.text(("user", "How much?"))


@pytest.mark.parametrize("template", [PARTS, PICTURE_LAST])
def test_what_stands_around_the_picture_is_what_the_whole_prompt_has(template: str) -> None:
    rendering = Template(template)
    before, behind = rendering.prompt.around_picture("How much?")
    markup = rendering.vocabulary.encode_markup(rendering.prompt.picture)
    assert [*before, *markup, *behind] == rendering.ids(("user", "How much?"), picture=PICTURE)
    assert rendering.prompt.token_ids("How much?", image=True) == rendering.ids(("user", "How much?"), picture=PICTURE)


def test_a_template_that_knows_text_only_is_given_the_picture_as_text() -> None:
    assert (
        Template(STRINGS).text(("user", "How much?"), picture=PICTURE) == said("user", "<image>\nHow much?") + ASSISTANT
    )


def test_a_template_that_drops_the_question_is_refused() -> None:
    with pytest.raises(InputError, match="does not put the question into the prompt once"):
        Template(said("user", "") + ASSISTANT).text(("user", "How much?"))
