"""Stored traces of served searches become PRM rows and pairs, and training on them runs."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cos.search.errors import InputError
from cos.training.config.recipe import DpoConfig, PairsConfig, PrmConfig
from cos.training.data.pieces import pieces_of
from cos.training.data.rows import ChainRow, PairRow, read_rows
from cos.training.data.sources import MixedChains, MixedPairs
from cos.training.data.trace_reader import harvest
from cos.training.stages.dpo import run_dpo
from cos.training.stages.pairs import run_pairs
from cos.training.stages.prm_training import run_prm
from cos.training.stages.traces_to_rows import TracesConfig, run_traces
from cos.wire.reply import Stages, Usage
from cos.wire.trace import VERSION
from tests.server.support import data_uri, picture_bytes, served
from tests.training.tiny_models import build
from tests.training.training_support import context

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)


def node(*path: int, score: float | None = 0.5, **more: Any) -> dict[str, Any]:
    """A step of a stored tree, or with ``answer`` an answer."""
    step = {"text": f"N: T{path} R", "fields": {"name": "N", "thought": f"T{path}", "reflection": "R"}, "end": "step"}
    own = {"text": more["answer"], "fields": {}, "end": "answer"} if "answer" in more else {**step, "answer": None}
    return {"path": path, "score": score, "logprob": None, "tokens": 9, "kept": False, **own, **more}


TREE = (
    node(0, score=0.9),
    node(0, 0, answer="5", score=0.8),
    node(1, score=0.2),
    node(1, 0, answer="6", score=0.1),
)


PROBABILITIES = {"is_probability": True, "threshold": 0.5, "lowest": 0.0, "highest": 1.0}


def store(folder: Path, name: str = "a", tree: Sequence[dict[str, Any]] = TREE, **more: Any) -> Path:
    """A trace as the server would have written it."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "images" / "0f.png").write_bytes(PIXEL)
    trace = {
        "version": VERSION,
        "id": name,
        "time": "2026-01-02T03:04:05Z",
        "question": "How many?",
        "images": ["images/0f.png"],
        "history": [],
        "policy": "policy",
        "grammar": "cos",
        "prm": "prm",
        "scale": PROBABILITIES,
        "strategy": "beam",
        "parameters": {"score": "prm"},
        "tree": tree,
        "chain": (0, 0),
        "answer": "5",
        "chain_score": 0.8,
        "finish_reason": "answer",
        "usage": dict.fromkeys(Usage.model_fields, 0),
        "timings": {"first_candidate_s": None, "total_s": 0.0, "stages": dict.fromkeys(Stages.model_fields, 0.0)},
        **more,
    }
    path = folder / "2026-01-02" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(trace))
    return path


def run(folder: Path, tmp_path: Path, **keys: Any) -> tuple[list[ChainRow], list[PairRow], dict[str, Any]]:
    where = context(tmp_path, "out")
    run_traces(TracesConfig(traces=(str(folder),), **keys), where)
    outcome = json.loads((where.folder / "done.json").read_text())["outcome"]
    chains = list(read_rows(where.folder / "chains.jsonl", ChainRow))
    return chains, list(read_rows(where.folder / "pairs.jsonl", PairRow)), outcome


async def serve(folder: Path) -> list[dict[str, Any]]:
    """A server with a scripted PRM that is asked some questions; returns its replies."""
    replies: list[dict[str, Any]] = []
    async with served(trace_dir=folder) as server:
        for index in range(4):
            for seed in range(2):
                more = {"strategy": ("best_of_n", "beam")[index % 2], "n": 4, "return_tree": True, "seed": seed}
                picture = data_uri(picture_bytes(28, 28 + index))
                reply = await server.solve(question=f"Which is number {index}?", image=picture, **more)
                replies.append(reply.json())
    return replies


async def test_what_a_server_stored_comes_out_as_labelled_chains_and_pairs(tmp_path: Path) -> None:
    replies = await serve(tmp_path / "traces")
    chains, pairs, outcome = run(tmp_path / "traces", tmp_path)
    assert outcome["traces"] == len(replies) == 8
    assert outcome["questions"] == len({chain.problem.id for chain in chains}) == 4
    answers = [node["answer"] for reply in replies for node in reply["tree"] if node["end"] == "answer"]
    assert len(chains) == len(answers) - outcome["duplicates"]
    for reply in replies:
        winner = [step["score"] for step in reply["steps"]] + [reply["answer_score"]]
        assert any(list(chain.scores or ()) == winner and chain.answer == reply["answer"] for chain in chains)
    for chain in chains:
        labels = [label for label in chain.labels["serving"] if label is not None]
        assert [label.soft for label in labels] == list(chain.scores or ())
        assert all(label.hard == (label.soft >= 0.5) for label in labels)
        assert Path(chain.problem.image or "").is_file()
    assert 1 <= len(pairs) == outcome["pairs"] <= 4
    assert all(pair.chosen_score - pair.rejected_score > 0.2 for pair in pairs)


async def test_a_prm_and_a_policy_train_on_them(tmp_path: Path) -> None:
    await serve(tmp_path / "traces")
    run(tmp_path / "traces", tmp_path, per_question=4, gap=0.05)
    model = str(build(tmp_path / "model", "internvl"))
    keys: dict[str, Any] = {"steps": 1, "batch": 2, "log_every": 1, "precision": "fp32"}
    chains = (str(tmp_path / "out" / "chains.jsonl"),)
    run_prm(
        PrmConfig(
            model=model,
            chains=tuple(MixedChains(path=path) for path in chains),
            labels="serving",
            target="soft",
            **keys,
        ),
        context(tmp_path / "a", "prm"),
    )
    pairs = (str(tmp_path / "out" / "pairs.jsonl"),)
    policy = DpoConfig(policy=model, pairs=tuple(MixedPairs(path=path) for path in pairs), **keys)
    run_dpo(policy, context(tmp_path / "b", "dpo"))
    assert all((tmp_path / stage / "done.json").is_file() for stage in ("a/prm", "b/dpo"))
    with pytest.raises(InputError, match="share 4 questions"):
        run_dpo(policy, context(tmp_path / "a", "dpo"))


def test_each_way_to_an_answer_is_a_chain_and_all_else_is_counted(tmp_path: Path) -> None:
    tree = (
        *TREE,
        node(0, 1, score=0.6),
        node(1, 1, score=None, answer="7"),
        node(2, score=None, end="truncated", text="half a", fields={}),
    )
    store(tmp_path / "t", tree=tree)
    chains, pairs, outcome = run(tmp_path / "t", tmp_path)
    assert [(chain.answer, chain.scores) for chain in chains] == [("5", (0.9, 0.8)), ("6", (0.2, 0.1))]
    assert (outcome["unanswered"], outcome["unscored"], outcome["duplicates"]) == (2, 1, 0)
    assert [(pair.chosen.answer, pair.rejected.answer) for pair in pairs] == [("5", "6")]
    assert pairs[0].chosen_score == pytest.approx(0.2 * 0.9 + 0.8 * 0.8)
    assert outcome["chosen_right"] is None, "served questions have no gold"


def test_traces_of_one_question_come_together_and_equal_chains_count_once(tmp_path: Path) -> None:
    store(tmp_path / "t", "a", TREE[:2])
    store(tmp_path / "t", "b", (*TREE[:2], node(1, score=0.2), node(1, 0, answer="6", score=0.1)))
    store(tmp_path / "t", "c", TREE[:2], question="Another?")
    chains, pairs, outcome = run(tmp_path / "t", tmp_path)
    assert (outcome["questions"], len(chains), outcome["duplicates"], len(pairs)) == (2, 3, 1, 1)


def test_a_scored_chain_takes_the_place_of_the_same_one_without_scores(tmp_path: Path) -> None:
    store(tmp_path / "t", "a", [{**node, "score": None} for node in TREE[:2]])
    store(tmp_path / "t", "b", TREE[:2])
    (row,) = harvest([tmp_path / "t"]).chains
    assert row.scores == (0.9, 0.8)


def test_chains_that_two_prms_scored_are_never_paired(tmp_path: Path) -> None:
    store(tmp_path / "t", "a", TREE[:2])
    store(tmp_path / "t", "b", TREE[2:], prm="another")
    chains, pairs, _ = run(tmp_path / "t", tmp_path)
    assert (len(chains), pairs) == (2, [])


def test_likelihoods_are_never_taken_for_scores(tmp_path: Path) -> None:
    tree = [{**node, "score": -0.2, "logprob": -1.5} for node in TREE]
    store(tmp_path / "t", tree=tree, parameters={"score": "likelihood"})
    rows = harvest([tmp_path / "t"]).chains
    assert [(row.scores, row.labels, row.logprob) for row in rows] == [(None, {}, -3.0)] * 2
    with pytest.raises(InputError, match=r"no chain has an answer and a PRM score .*unscored 2.*; serve with a PRM"):
        run(tmp_path / "t", tmp_path)


def test_hard_labels_begin_where_they_are_told_to(tmp_path: Path) -> None:
    store(tmp_path / "t")
    chains, _, _ = run(tmp_path / "t", tmp_path, hard_at=0.85)
    assert [label and label.hard for label in chains[0].labels["serving"]] == [True, False]


def test_searches_without_a_picture_are_chains_of_questions_without_one(tmp_path: Path) -> None:
    store(tmp_path / "t", "a")
    store(tmp_path / "t", "b", images=[])
    chains = harvest([tmp_path / "t"]).chains
    assert {chain.problem.image is None for chain in chains} == {False, True}
    assert len({chain.problem.id for chain in chains}) == 2


LONG = "A paragraph of more than four hundred characters. " * 20


def text_node(*path: int, text: str, score: float) -> dict[str, Any]:
    """A step of a grammar without named parts."""
    return node(*path, text=text, fields={}, score=score)


def test_a_step_of_a_grammar_without_named_parts_is_a_thought_and_no_text_is_cut(tmp_path: Path) -> None:
    answer = node(0, 0, 0, answer="5", score=0.8, fields={"reasoning": "So it is five."})
    store(tmp_path / "t", tree=(text_node(0, text=LONG, score=0.9), text_node(0, 0, text="B", score=0.7), answer))
    (row,) = harvest([tmp_path / "t"]).chains
    assert [(step.name, step.thought, step.reflection) for step in row.steps] == [
        ("", LONG, ""),
        ("", "B", ""),
        ("", "So it is five.", ""),
    ]
    assert row.answer == "5"
    assert row.scores == (0.9, 0.7, 0.8, 0.8), "an answer and what its piece says beside it were scored together"
    assert [piece.text for piece in pieces_of(row.steps)] == [LONG, "B", "So it is five."]


def test_scores_that_are_no_probabilities_are_kept_and_label_nothing(tmp_path: Path) -> None:
    scale = {"is_probability": False, "threshold": None, "lowest": None, "highest": None}
    store(tmp_path / "t", tree=[{**node, "score": 10 * node["score"] - 6} for node in TREE], scale=scale)
    rows = harvest([tmp_path / "t"]).chains
    assert [(row.scores, row.labels) for row in rows] == [((3.0, 2.0), {}), ((-4.0, -5.0), {})]
    with pytest.raises(InputError, match="serve with a PRM whose scores are probabilities"):
        run(tmp_path / "t", tmp_path)


def test_a_policy_and_a_prm_train_on_what_another_grammar_wrote(tmp_path: Path) -> None:
    tree = (
        text_node(0, text=LONG, score=0.9),
        node(0, 0, answer="5", score=0.8),
        text_node(1, text="B", score=0.2),
        node(1, 0, answer="6", score=0.1),
    )
    store(tmp_path / "t", tree=tree, grammar="paragraph")
    run(tmp_path / "t", tmp_path)
    model = str(build(tmp_path / "model", "internvl"))
    keys: dict[str, Any] = {"steps": 1, "batch": 2, "log_every": 1, "precision": "fp32"}
    chains = (MixedChains(path=str(tmp_path / "out" / "chains.jsonl")),)
    run_prm(PrmConfig(model=model, chains=chains, labels="serving", target="soft", **keys), context(tmp_path, "prm"))
    pairs = (MixedPairs(path=str(tmp_path / "out" / "pairs.jsonl")),)
    run_dpo(DpoConfig(policy=model, pairs=pairs, **keys), context(tmp_path / "b", "dpo"))
    assert all((tmp_path / stage / "done.json").is_file() for stage in ("prm", "b/dpo"))


BAD: list[tuple[dict[str, Any], str]] = [
    ({"version": 1}, "a trace of version 1, and this program reads version 3"),
    ({"tree": [{"path": [0], "text": ""}]}, r"tree\.0\.fields: Field required"),
    ({"tree": TREE[1:]}, r"tree: no candidate at \[0\]"),
    ({"tree": (node(0, text="", fields={}), TREE[1])}, r"tree: the step at \[0\] has no text"),
    ({"tree": (node(0, end="truncated"), TREE[1])}, r"tree: the step at \[0\] has no text"),
    ({"scale": None}, "scale: null, although a PRM scored the search"),
    ({"tree": (node(0, score=1.5), TREE[1])}, "tree: score 1.5 at .* is no probability"),
    ({"images": ["images/gone.png"]}, "images: there is no picture 'images/gone.png'"),
    ({"images": ["../secret.png"]}, "images: there is no picture '../secret.png'"),
    ({"images": ["images/0f.png"] * 2}, "images: 2 pictures; training takes questions about one picture at most"),
    (
        {"history": [{"role": "user", "content": [{"text": "Hi.", "image": None}]}]},
        "history: the question follows a conversation of 1 turns; training takes questions that stand alone",
    ),
]


@pytest.mark.parametrize(("more", "told"), BAD)
def test_a_bad_trace_is_named_and_can_be_skipped(tmp_path: Path, more: dict[str, Any], told: str) -> None:
    (tmp_path / "secret.png").write_bytes(PIXEL)
    store(tmp_path / "t", "good")
    bad = store(tmp_path / "t", "bad", **more)
    with pytest.raises(InputError, match=f"{bad}: {told}.*--skip-bad"):
        harvest([tmp_path / "t"])
    found = harvest([tmp_path / "t"], skip_bad=True)
    assert (found.counts["traces"], found.counts["bad"], len(found.chains)) == (1, 1, 2)


def test_a_file_that_was_cut_off_is_named_and_one_that_is_being_written_is_not_seen(tmp_path: Path) -> None:
    path = store(tmp_path / "t")
    path.with_name(".b.json.partial").write_text("{")
    assert harvest([tmp_path / "t"]).counts["traces"] == 1
    path.write_text(path.read_text()[:-9])
    with pytest.raises(InputError, match="not JSON"):
        harvest([tmp_path / "t"])


def test_a_folder_without_traces_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no trace"):
        harvest([tmp_path])


def test_the_stage_pairs_takes_traces_and_scores_with_its_prm_what_nobody_scored(tmp_path: Path) -> None:
    steps = [node(number, text=f"[{sure}000] sure", fields={}, score=None) for number, sure in enumerate((0.9, 0.1))]
    tree = [steps[0], node(0, 0, answer="5", score=None), steps[1], node(1, 0, answer="6", score=None)]
    store(tmp_path / "t", tree=tree)
    run_pairs(PairsConfig(traces=(str(tmp_path / "t"),), prm="scripted"), context(tmp_path, "pairs"))
    (pair,) = read_rows(tmp_path / "pairs" / "pairs.jsonl", PairRow)
    assert (pair.chosen.answer, pair.chosen_score) == ("5", pytest.approx(0.9))
    harvested = json.loads((tmp_path / "pairs" / "done.json").read_text())["outcome"]["harvested"]
    assert (harvested["traces"], harvested["bad"]) == (1, 0)
