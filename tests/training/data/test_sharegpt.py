"""Published conversations become chains: exactly what is written, with its labels, or an error that names the fault."""

import json
from pathlib import Path

import pytest

from cos.search.errors import InputError
from cos.search.grammars.cos import LABEL_BAD, LABEL_GOOD, STEP_TAG, Step, render_segments
from cos.training.config.recipe import PrmConfig, SftConfig
from cos.training.data.rows import ChainRow, Source, TagLabel, read_rows, write_rows
from cos.training.data.sharegpt import SPLIT
from cos.training.stages.prm_training import run_prm
from cos.training.stages.sft import run_sft
from tests.training.tiny_models import build
from tests.training.training_support import context, write_chains

STEPS = (
    Step("Read the bars", "2019 shows 40, 2020 shows 55.", "Both are printed."),
    Step("Subtract", "55 - 40 = 15.", ""),
)
SEGMENTS = render_segments(STEPS, "15")
REPLY = "".join(SEGMENTS)
TAGGED = "".join(segment + STEP_TAG for segment in SEGMENTS)
GOOD, BAD = TagLabel(1.0, True), TagLabel(0.0, False)


def turn(who: object, value: object) -> dict[str, object]:
    return {"from": who, "value": value}


ASKED = turn("human", "<image>\nBy how much did it rise?")


def conversation(reply: object = REPLY, **changes: object) -> str:
    row = {"id": 7, "image": "charts/7.png", "conversations": [ASKED, turn("gpt", reply)], **changes}
    return json.dumps({key: value for key, value in row.items() if value is not ...})


def talk(*turns: object) -> str:
    return conversation(conversations=list(turns))


def asking(question: str) -> str:
    return talk(turn("human", question), turn("gpt", REPLY))


def labelled(*labels: str) -> str:
    return "".join(segment + label for segment, label in zip(SEGMENTS, labels, strict=True))


def read(folder: Path, *lines: str) -> list[ChainRow]:
    file = folder / "data.jsonl"
    file.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return list(read_rows(file, ChainRow))


def test_a_conversation_is_a_chain_about_its_picture(tmp_path: Path) -> None:
    (row,) = read(tmp_path, conversation())
    assert (row.steps, row.answer, row.labels, row.right) == (STEPS, "15", {}, None)
    assert row.problem.question == "By how much did it rise?"
    assert row.problem.image == str(tmp_path / "charts" / "7.png")
    assert "".join(row.segments) == REPLY, "it is written as it was read"


@pytest.mark.parametrize(
    "reply",
    [
        REPLY.replace("<|", " <|").replace("|>", "|> "),
        REPLY.replace("Answer:", ""),
        f"\n{REPLY}\n",
        TAGGED,
        TAGGED.replace(STEP_TAG, f" {STEP_TAG} "),
    ],
    ids=["white space", "no word before the answer", "newlines around it", "tags", "tags with white space"],
)
def test_what_means_nothing_is_read_past(tmp_path: Path, reply: str) -> None:
    (row,) = read(tmp_path, conversation(reply))
    assert (row.steps, row.answer, row.labels) == (STEPS, "15", {})


@pytest.mark.parametrize(
    "question", ["Why?", "<image>Why?", "<image>\nWhy?\n", "Why?\n<image>", "<image> Why?"], ids=repr
)
def test_the_mark_of_the_picture_is_no_part_of_the_question(tmp_path: Path, question: str) -> None:
    assert read(tmp_path, asking(question))[0].problem.question == "Why?"


def test_letters_that_spell_a_tag_stay_in_their_field(tmp_path: Path) -> None:
    steps = (Step("Руки", f"Две руки {LABEL_BAD}.", "Картинки."),)
    (row,) = read(tmp_path, conversation("".join(render_segments(steps, "руки"))))
    assert (row.steps, row.answer, row.labels) == (steps, "руки", {})


def test_a_list_of_one_picture_is_that_picture(tmp_path: Path) -> None:
    assert read(tmp_path, conversation(image=["a.png"]))[0].problem.image == str(tmp_path / "a.png")


@pytest.mark.parametrize("form", ["two copies", "labels alone"])
def test_the_release_s_prm_form_is_steps_with_labels(tmp_path: Path, form: str) -> None:
    copy = labelled(LABEL_GOOD, LABEL_BAD, LABEL_GOOD)
    (row,) = read(tmp_path, conversation(TAGGED + SPLIT + copy if form == "two copies" else copy))
    assert (row.steps, row.answer, row.right) == (STEPS, "15", True)
    assert row.labels == {"published": (GOOD, BAD, GOOD)}
    assert row.problem.answer == "15", "a good answer is the gold one"
    write_rows(tmp_path / "own.jsonl", [row])
    assert list(read_rows(tmp_path / "own.jsonl", ChainRow)) == [row]


def test_where_the_answer_is_bad_gold_is_not_known(tmp_path: Path) -> None:
    (row,) = read(tmp_path, conversation(TAGGED + SPLIT + labelled(LABEL_GOOD, LABEL_GOOD, LABEL_BAD)))
    assert (row.answer, row.right, row.problem.answer) == ("15", False, "")
    assert row.labels == {"published": (GOOD, GOOD, BAD)}


STEP_START, STEP_END = "<|reasoning_step_start|>", "<|reasoning_step_end|>"
NAME = "<|reasoning_step_name_start|>", "<|reasoning_step_name_end|>"
THOUGHT = "<|reasoning_step_thought_start|>", "<|reasoning_step_thought_end|>"
PROCEED, END = "<|reasoning_proceed|>", "<|reasoning_end|>"
ANSWER = "<|answer_start|>15<|answer_end|>"
ALL_GOOD = labelled(LABEL_GOOD, LABEL_GOOD, LABEL_GOOD)

STRANGE_ROWS = {
    "conversations null": (conversation(conversations=None), "conversations: a list of turns is needed, not null"),
    "conversations a number": (conversation(conversations=7), "a list of turns is needed, not a number"),
    "conversations a text": (conversation(conversations="hello"), "a list of turns is needed, not text"),
    "conversations an object": (conversation(conversations=ASKED), "a list of turns is needed, not an object"),
    "conversations empty": (conversation(conversations=[]), "one question from 'human' and one reply from 'gpt'"),
    "turns null": (talk(None, None), "turn 1 is null, not an object"),
    "a turn null": (talk(ASKED, None), "turn 2 is null, not an object"),
    "turns texts": (talk("Why?", REPLY), "turn 1 is text, not an object"),
    "turns lists": (talk([], []), "turn 1 is a list"),
    "from missing": (talk(ASKED, {"value": REPLY}), "turn 2 has no from"),
    "from null": (talk(ASKED, turn(None, REPLY)), "from of turn 2 is null, not text"),
    "value missing": (talk(ASKED, {"from": "gpt"}), "turn 2 has no value"),
    "value null": (talk(turn("human", None), turn("gpt", REPLY)), "value of turn 1 is null, not text"),
    "reply null": (conversation(None), "value of turn 2 is null, not text"),
    "reply a number": (conversation(15), "value of turn 2 is a number"),
    "reply a list": (conversation([REPLY]), "value of turn 2 is a list"),
    "other names": (talk(turn("user", "Why?"), turn("assistant", REPLY)), "a turn from 'user'; name them 'human'"),
    "system turn": (talk(turn("system", "Be brief."), ASKED, turn("gpt", REPLY)), "a system turn; prompts have"),
    "several turns": (talk(ASKED, turn("gpt", REPLY), ASKED, turn("gpt", REPLY)), "4 turns; a chain is one question"),
    "only a question": (talk(ASKED), "are needed, not ['human']"),
    "turned round": (talk(turn("gpt", REPLY), ASKED), "are needed, not ['gpt', 'human']"),
    "no question": (asking("<image>\n"), "the question is empty"),
    "two marks": (asking("<image><image>\nWhy?"), "<image> stands more than once or within"),
    "a mark within": (asking("In <image> why?"), "<image> stands more than once or within"),
    "half a surrogate pair": (asking("Why \ud83d?"), "half a surrogate pair"),
    "image missing": (conversation(image=...), "<image> stands in the question, and the row has no picture"),
    "image empty": (conversation(image=" "), "the path of a picture is needed, not empty text"),
    "image a number": (conversation(image=7), "the path of a picture is needed, not a number"),
    "images none": (conversation(image=[]), "<image> stands in the question, and the row has no picture"),
    "images several": (conversation(image=["a.png", "b.png"]), "image: 2 pictures; a chain has one"),
    "images null": (conversation(image=[None]), "the path of a picture is needed, not null"),
    "id missing": (conversation(id=...), "id: text or a whole number is needed, not null"),
    "id true": (conversation(id=True), "id: text or a whole number is needed, not true or false"),
    "id a fraction": (conversation(id=1.5), "id: text or a whole number is needed, not a number"),
}

STRANGE_REPLIES = {
    "empty": ("", "the beginning: <|reasoning_start|> is missing, the text ends instead"),
    "no grammar": ("It is 15.", "the beginning: <|reasoning_start|> is missing"),
    "step unclosed": (REPLY.replace(STEP_END, "", 1), f"step 1: {STEP_END} is missing, {PROCEED} comes instead"),
    "last step unclosed": (
        "".join((SEGMENTS[0], SEGMENTS[1].replace(STEP_END, ""), SEGMENTS[2])),
        "step 2: <|reasoning",
    ),
    "step unopened": (REPLY.replace(STEP_START, "", 1), f"step 1: {STEP_START} is missing, {NAME[0]} comes"),
    "step nested": (
        REPLY.replace(NAME[0], STEP_START + NAME[0], 1),
        f"step 1: {NAME[0]} is missing, {STEP_START} comes",
    ),
    "field unclosed": (REPLY.replace(THOUGHT[1], "", 1), f"step 1: {THOUGHT[1]} is missing"),
    "field missing": (REPLY.replace("".join((NAME[0], "Subtract", NAME[1])), ""), f"step 2: {NAME[0]} is missing"),
    "fields out of order": (
        REPLY.replace(NAME[0], "X").replace(THOUGHT[0], NAME[0]).replace("X", THOUGHT[0]),
        f"step 1: {NAME[0]} is missing, {THOUGHT[0]} comes instead",
    ),
    "no proceed": (REPLY.replace(PROCEED, ""), f"after step 1: {PROCEED} or {END} is missing, {STEP_START} comes"),
    "no end": (REPLY.replace(END, ""), f"after step 2: {PROCEED} or {END} is missing, <|answer_start|> comes"),
    "backtracking": (REPLY.replace(PROCEED, "<|reasoning_backtrack|>"), "<|reasoning_backtrack|> comes instead"),
    "prose before": ("Let me see. " + REPLY, "text that is in no field before <|reasoning_start|>: 'Let me see.'"),
    "prose between steps": (REPLY.replace(PROCEED, f"So {PROCEED}"), f"in no field before {PROCEED}: 'So'"),
    "prose between fields": (REPLY.replace(THOUGHT[0], f"And {THOUGHT[0]}", 1), "step 1: text that is in no field"),
    "prose before the answer": (REPLY.replace("Answer:", "So, Answer:"), "the answer: text that is in no field"),
    "prose behind the answer": (REPLY + " I am sure.", "after the answer: text that is in no field at the end: 'I am"),
    "two answers": (REPLY + ANSWER, "after the answer: nothing more should come, <|answer_start|> comes instead"),
    "two chains": (REPLY + REPLY, "after the answer: nothing more should come"),
    "answer unclosed": (REPLY.replace("<|answer_end|>", ""), "the answer: <|answer_end|> is missing, the text ends"),
    "answer empty": (REPLY.replace(">15<", "> <"), "the answer: there is none between its tokens"),
    "no answer": (REPLY.replace(ANSWER, ""), "the answer: <|answer_start|> is missing"),
    "tags at some places": (labelled(STEP_TAG, "", STEP_TAG), "behind some steps or the answer stands"),
    "labels at some places": (labelled(LABEL_GOOD, LABEL_BAD, ""), "behind some steps or the answer stands a label"),
    "labels and tags": (labelled(LABEL_GOOD, STEP_TAG, LABEL_BAD), "behind some steps or the answer stands"),
    "two tags": (labelled(STEP_TAG * 2, STEP_TAG, STEP_TAG), "step 2: text that is in no field"),
    "copies that differ": (TAGGED.replace("40", "41") + SPLIT + ALL_GOOD, "are not of the same chain"),
    "three copies": (TAGGED + SPLIT + ALL_GOOD + SPLIT + ALL_GOOD, "stands 2 times; it parts two copies"),
    "copy without tags": (REPLY + SPLIT + ALL_GOOD, "copy 1: 'ки' has to stand behind every step"),
    "copy without labels": (TAGGED + SPLIT + TAGGED, "copy 2: 'к+и' or 'к-и' has to stand behind every step"),
    "broken copy": (TAGGED + SPLIT + ALL_GOOD.replace(END, ""), f"copy 2, after step 2: {PROCEED} or {END}"),
}


STRANGE = {**STRANGE_ROWS, **{name: (conversation(reply), said) for name, (reply, said) in STRANGE_REPLIES.items()}}


@pytest.mark.parametrize(("line", "said"), STRANGE.values(), ids=STRANGE.keys())
def test_what_is_no_chain_is_refused_by_file_line_and_fault(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, conversation(id="first"), line)
    assert str(caught.value).startswith(f"{tmp_path / 'data.jsonl'}:2: ")
    assert said in str(caught.value)


def test_bad_conversations_are_left_out_and_told_with_their_lines(tmp_path: Path) -> None:
    file, skipped = tmp_path / "data.jsonl", list[str]()
    lines = [line for line, _ in STRANGE.values()]
    file.write_text("\n".join([conversation(id="a"), *lines, conversation(id="b")]) + "\n")
    rows = list(read_rows(file, ChainRow, skip_bad=True, skipped=skipped))
    assert [row.id for row in rows] == ["a/0", "b/0"]
    assert len(skipped) == len(STRANGE)
    for number, (message, (_, said)) in enumerate(zip(skipped, STRANGE.values(), strict=True), start=2):
        assert message.startswith(f"{file}:{number}: ")
        assert said in message


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chains(tmp_path_factory.mktemp("own") / "chains.jsonl", 4)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("internvl"), "internvl")


def published(row: ChainRow, source: Source) -> str:
    """An own row as it would be published, in the release's PRM form, its picture by name alone."""
    labels = [LABEL_GOOD if label and label.hard else LABEL_BAD for label in row.labels[source]]
    tagged = "".join(segment + STEP_TAG for segment in row.segments)
    right = "".join(segment + label for segment, label in zip(row.segments, labels, strict=True))
    asked = turn("human", f"<image>\n{row.problem.question}")
    turns = [asked, turn("gpt", tagged + SPLIT + right)]
    return json.dumps({"id": row.problem.id, "image": Path(row.problem.image or "").name, "conversations": turns})


@pytest.mark.parametrize("stage", ["sft", "prm"])
def test_a_published_file_trains_as_the_same_rows_of_one_s_own_do(
    tmp_path: Path, own: Path, checkpoint: Path, stage: str
) -> None:
    theirs = tmp_path / "published.jsonl"
    theirs.write_text("".join(published(row, "exact") + "\n" for row in read_rows(own, ChainRow)), encoding="utf-8")
    keys = {"model": str(checkpoint), "steps": 2, "batch": 2, "log_every": 1, "warmup_share": 0, "precision": "fp32"}
    images = str(own.parent / "pictures")
    losses: list[list[float]] = []
    for name, file, more in (("own", own, {}), ("published", theirs, {"images": images})):
        where = context(tmp_path / name, stage)
        if stage == "sft":
            run_sft(SftConfig.model_validate({**keys, **more, "data": (str(file),)}), where)
        else:
            labels = "exact" if name == "own" else "published"
            run_prm(PrmConfig.model_validate({**keys, **more, "chains": (str(file),), "labels": labels}), where)
        lines = (where.folder / "metrics.jsonl").read_text().splitlines()
        losses.append([found["loss"] for found in map(json.loads, lines) if "loss" in found])
    assert losses[0] == losses[1]
    assert len(losses[0]) == 2
