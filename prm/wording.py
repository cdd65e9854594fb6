"""How one PRM words a question and a chain for its labels to be read: as data, which a format or a user's file has."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cos.search.scale import Aggregation, Scale

_ANSWER = "The answer is: {answer}"


class Wording(BaseModel):
    """What a PRM is shown, as plain text: a control token that is spelt in it stays text, but for the tag and the
    labels. What stands between turns is written by the model's own chat template."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    steps: Literal["turns", "tags"]
    """Where steps stand. "turns": each is a turn of the user's, and the model's reply is read, which begins with a
    label. "tags": they are one running text with a tag behind each, and the label is read there."""
    good: Annotated[str, Field(min_length=1)]
    """The label of a right step. It must be one token of the PRM's."""
    bad: Annotated[str, Field(min_length=1)]
    """The label of a wrong step."""
    system: str = ""
    """The system message; without one, what the chat template makes of none."""
    question: str = "{question}\n\n"
    """What stands before the first step. {question} is the question, behind the conversation if there was one."""
    step: str = "{step}"
    """How a step is written. {step} is its text, {number} its number from 1."""
    answer: str = _ANSWER
    """How the answer is written, which is the last step. {answer} is its text."""
    is_one_line: bool = False
    """Whether line ends within a step become spaces."""
    tag: str = ""
    """Stands behind each step where steps are "tags". It must be one token of the PRM's."""
    separator: str = ""
    """Stands between a tag and the next step."""
    read: Literal["at_tag", "before_tag"] = "at_tag"
    """Which token's prediction is the label: that of the tag, or that of the last token before it."""
    text_in: Literal["user", "assistant", "assistant_alone", "no_turn"] = "user"
    """Where a running text stands. "user": question and steps are the user's turn. "assistant": the question is the
    user's turn, the steps are the assistant's. "assistant_alone": all is the assistant's turn, behind an empty one of
    the user's. "no_turn": without any chat template."""
    pictures: Literal["first", "with_question", "none"] = "with_question"
    """Where the pictures are shown: before all text of the turn, before the question's own text, or not at all."""
    threshold: Annotated[float, Field(ge=0, le=1)] | None = 0.5
    """A step that scores less is taken for wrong."""
    aggregation: Aggregation = "mean"
    """How a chain's score is made of its steps' scores."""

    @field_validator("question", "step", "answer")
    @classmethod
    def _has_its_place(cls, value: str, info: object) -> str:
        name = str(getattr(info, "field_name", ""))
        if value.count(f"{{{name}}}") != 1:
            raise ValueError(f"write {{{name}}} in it once: the text of the {name} is put there")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> "Wording":
        """Errors: ValueError that begins with the key."""
        if self.good == self.bad:
            raise ValueError(f"bad: it is {self.bad!r}, as good is; the two labels must differ")
        if self.steps == "tags" and not self.tag:
            raise ValueError("tag: it is missing; where steps are 'tags', say what stands behind each")
        if self.steps == "turns":
            for name, default in (("tag", ""), ("separator", ""), ("read", "at_tag"), ("text_in", "user")):
                if getattr(self, name) != default:
                    raise ValueError(f"{name}: it says nothing where steps are 'turns'; leave it out")
        elif self.text_in == "no_turn":
            if self.system:
                raise ValueError("system: without a chat template there is no system message; leave it out")
            if self.pictures != "none":
                raise ValueError("pictures: without a chat template there is no place for them; give pictures: none")
        return self

    @property
    def scale(self) -> Scale:
        """What the scores mean."""
        return Scale(aggregation=self.aggregation, threshold=self.threshold)
