"""Prompts as chat templates write them: every turn is plain text, and what a template cannot do is said."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from PIL import Image

from cos.engines.chat import MOST_SHAPES, ChatPrompt
from cos.engines.vocabulary import HfVocabulary
from cos.search.errors import InputError
from cos.search.prompt import Prompt, Rendering
from cos.search.types import Picture, Turn
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

    def text(self, *turns: tuple[str, str], picture: Picture | None = None, rendering: Rendering = "reply") -> str:
        """A prompt, control tokens spelt out."""
        return self.vocabulary.decode(self.ids(*turns, picture=picture, rendering=rendering))

    def ids(self, *turns: tuple[str, str], picture: Picture | None = None, rendering: Rendering = "reply") -> list[int]:
        return self.prompt.render(Prompt(turns_of(turns, picture), rendering))


def turns_of(turns: Sequence[tuple[Any, str]], picture: Picture | None = None) -> tuple[Turn, ...]:
    """The picture stands before the text of the user's first turn, or else of the first."""
    place = next((number for number, (role, _) in enumerate(turns) if role == "user"), 0)
    return tuple(
        Turn(role, (picture, text) if picture is not None and number == place else text)
        for number, (role, text) in enumerate(turns)
    )


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
def test_a_picture_is_shown_in_its_turn(template: str) -> None:
    turns = [("user", "How much?"), ("assistant", "Six."), ("user", "Sure?")]
    text = Template(template).text(*turns, picture=PICTURE)
    assert text.count("<IMG_CONTEXT>") == 1
    assert text.startswith("<|im_start|>user\n<IMG_CONTEXT>\nHow much?")


def test_a_raw_prompt_has_no_chat_template() -> None:
    assert Template(PARTS).text(("user", "How much? "), ("assistant", "Six."), rendering="raw") == "How much? Six."


@pytest.mark.parametrize("template", [PARTS, STRINGS, NO_SYSTEM])
@pytest.mark.parametrize("roles", [("user",), ("user", "assistant"), ("user", "assistant", "user")])
def test_a_prompt_that_is_ended_ends_the_last_turn_whoevers_it_is_and_begins_none(
    template: str, roles: tuple[str, ...]
) -> None:
    turns = [(role, f"text {number}") for number, role in enumerate(roles)]
    assert Template(template).text(*turns, rendering="ended") == "".join(said(*turn) for turn in turns)


def test_a_raw_prompt_with_bos_begins_with_that_token_where_the_tokenizer_puts_none() -> None:
    template = Template(PARTS)
    template.tokenizer.bos_token = "<|im_start|>"
    bare = template.ids(("user", "How much?"), rendering="raw")
    assert bare == [*template.vocabulary.encode("How much?")]
    begin = template.vocabulary.control_id("<|im_start|>")
    assert template.ids(("user", "How much?"), rendering="raw_with_bos") == [begin, *bare]


def test_a_raw_prompt_begins_as_the_tokenizer_begins_texts() -> None:
    from tokenizers.processors import TemplateProcessing

    template = Template(PARTS)
    begin = template.vocabulary.control_id("<|im_start|>")
    template.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", begin)]
    )
    assert template.tokenizer.encode("a")[0] == begin
    assert template.ids(("user", "How much?"), rendering="raw") == [begin, *template.vocabulary.encode("How much?")]
    assert template.text(("user", "How much?")) == said("user", "How much?") + ASSISTANT


@pytest.mark.parametrize("template", [PARTS, STRINGS, NO_SYSTEM])
@given(texts=SPELT)
def test_no_text_of_any_turn_adds_a_control_token(template: str, texts: str) -> None:
    chat = Template(template)
    controls = {chat.vocabulary.control_id(token) for token in CONTROLS}

    def count(text: str, rendering: Rendering) -> int:
        turns = [("system", text), ("user", text), ("assistant", text), ("user", text), ("assistant", text)]
        return sum(token in controls for token in chat.ids(*turns, rendering=rendering))

    for rendering in ("reply", "ended", "raw"):
        assert count(texts, rendering) == count("a", rendering)


def test_turns_that_a_chat_template_refuses_are_named_with_its_reason() -> None:
    with pytest.raises(
        InputError, match="does not put the turns user, user into the prompt once: roles must alternate"
    ):
        Template(ALTERNATES).text(("user", "How much?"), ("user", "Well?"))


@pytest.mark.parametrize("template", [PARTS, STRINGS])
def test_pictures_stand_between_texts_in_turns_of_either_side(template: str) -> None:
    asked = Turn("user", ("A: ", PICTURE, "B: ", PICTURE, "Which?"))
    answered = Turn("assistant", ("This: ", PICTURE, "as"))
    rendering = Template(template)
    text = rendering.vocabulary.decode(rendering.prompt.render(Prompt((asked, answered))))
    mark = "<image>\n" if template is STRINGS else "<IMG_CONTEXT>\n"
    assert text == said("user", f"A: {mark}B: {mark}Which?") + ASSISTANT + f"This: {mark}as"


BARE_REPLY = STRINGS.replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant'")
"""As of models whose replies begin with the space or the line break that the template writes in earlier turns."""


@pytest.mark.parametrize("template", [PARTS, STRINGS, NO_SYSTEM, ALTERNATES, BARE_REPLY])
def test_a_further_question_goes_on_from_an_answer_as_the_template_writes_the_whole(template: str) -> None:
    chat = Template(template)
    encode, marks = chat.vocabulary.encode, chat.prompt.reply_marks()
    asked = chat.ids(("user", "How many?"), ("assistant", "3 rows."))
    more = (*marks.to_user, *encode("Is it right?"), *marks.to_assistant)
    whole = chat.ids(("user", "How many?"), ("assistant", "3 rows."), ("user", "Is it right?"))
    assert [*asked, *more] == whole


def test_a_template_that_takes_one_question_only_has_no_place_for_a_further_one() -> None:
    single = "{% if messages | length > 1 %}{{ raise_exception('one question') }}{% endif %}" + STRINGS
    with pytest.raises(InputError, match="one question"):
        Template(single).prompt.reply_marks()


def test_a_raw_prompt_has_no_place_for_a_picture() -> None:
    with pytest.raises(InputError, match="without chat template has no place for a picture"):
        Template(PARTS).text(("user", "How much?"), picture=PICTURE, rendering="raw")


def test_a_checkpoint_without_a_chat_template_takes_raw_prompts_only() -> None:
    rendering = Template(PARTS)
    rendering.tokenizer.chat_template = None
    assert rendering.text(("user", "How much?"), rendering="raw") == "How much?"
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


def holds(ids: Sequence[int], run: Sequence[int]) -> int:
    """How often a run of ids stands in others."""
    return sum(list(ids[start : start + len(run)]) == list(run) for start in range(len(ids)))


def test_a_tag_for_a_picture_has_its_own_ids_and_one_that_a_user_spells_has_others() -> None:
    from tests.tiny.internvl_chat import SPECIAL
    from tests.tiny.parts import CHAT_ML_TEXT
    from tests.tiny.parts import tokenizer as listing

    words = listing(SPECIAL, template=CHAT_ML_TEXT, eos="<|im_end|>", pad="<|endoftext|>")
    vocabulary = HfVocabulary(words)
    prompt = ChatPrompt(vocabulary, words)
    tag = words.encode("<image>")
    spelt = "<image>, <image><image> and <im"
    turns = (Turn("user", spelt), Turn("assistant", spelt), Turn("user", (PICTURE, PICTURE, spelt)))
    ids = prompt.render(Prompt(turns))
    assert holds(ids, tag) == 2
    assert vocabulary.decode(ids).count(spelt) == 3
    alone = prompt.render(Prompt((Turn("user", spelt),)))
    assert holds(alone, tag) == 3, "without a picture a text has the ids that it always has"


def test_conversations_of_every_shape_are_not_kept_for_ever() -> None:
    rendering = Template(PARTS)
    for length in range(1, 600, 2):
        roles = ("user", "assistant")
        rendering.prompt.render(Prompt(tuple(Turn(roles[place % 2], "a") for place in range(length))))
    assert rendering.prompt._layouts_of.cache_info().currsize <= MOST_SHAPES  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize(("template", "takes_them"), [(PARTS, True), (PICTURE_LAST, True), (STRINGS, False)])
def test_a_template_that_takes_parts_takes_a_picture_in_any_place(template: str, takes_them: bool) -> None:
    assert Template(template).prompt.places_pictures is takes_them
