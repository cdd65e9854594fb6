"""What a search looks like on the terminal."""

import io
from typing import Any

from rich.console import Console

from cos.clients import Solution
from cos.clients.terminal import LiveSearch, chain_table, printable, score_text, show_solution
from cos.wire.events import Answered, Opened, Proposed, Scored, Selected
from cos.wire.reply import Candidate


def drawn(thing: Any, *, colour: bool = False) -> str:
    console = Console(file=io.StringIO(), width=120, force_terminal=colour, color_system="standard" if colour else None)
    console.print(thing)
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def shown(solution: Solution, *, tree: bool = True, colour: bool = False) -> str:
    console = Console(file=io.StringIO(), width=120, force_terminal=colour, color_system="standard" if colour else None)
    show_solution(console, solution, tree=tree)
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_a_solution_shows_tree_chain_answer_and_cost(solution: dict[str, Any]):
    text = shown(Solution.model_validate(solution))
    for expected in (
        "├── Read row 0: It shows 12. Two digits.  0.950",
        "└── Answer: 13  unscored",
        "Winning chain",
        "Answer: 12",
        "Chain score: 0.910",
        "36 tokens (18 kept, 18 discarded)",
        "Finished: answer, after 0.50 s of best_of_n",
    ):
        assert expected in text
    assert "├──" not in shown(Solution.model_validate(solution), tree=False)


def test_the_winner_is_bold_green_and_losers_are_dim(solution: dict[str, Any]):
    lines = shown(Solution.model_validate(solution), colour=True).splitlines()
    winner = next(line for line in lines if "Read row 0" in line)
    loser = next(line for line in lines if "Answer: 13" in line)
    assert "\x1b[1;32mRead row 0" in winner
    assert "\x1b[2mAnswer: 13" in loser


def test_a_search_without_an_answer_says_why(solution: dict[str, Any]):
    cut = {**solution, "answer": None, "answer_score": None, "complete": False, "finish_reason": "tokens"}
    text = shown(Solution.model_validate({**cut, "warnings": ["only so far"]}))
    assert "No whole answer (tokens)" in text
    assert "Warning: only so far" in text


def test_text_of_a_model_is_neither_markup_nor_control(solution: dict[str, Any]):
    evil = "[red]x[/red]\x1b[2J\x07\r\nend"
    step = {**solution["steps"][0], "text": evil}
    text = shown(Solution.model_validate({**solution, "steps": [step], "answer": evil}))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[red]x[/red]" in text
    assert printable("a\tb\u202ec") == "a b c"


def test_scores_have_the_colour_of_their_probability():
    assert score_text(0.9, likelihood=False).style == "green"
    assert score_text(0.6, likelihood=False).style == "yellow"
    assert score_text(0.1, likelihood=False).style == "red"
    assert score_text(-0.05, likelihood=True).style == "green"
    assert score_text(-3.0, likelihood=True).style == "red"


def test_likelihoods_are_told_as_such(solution: dict[str, Any]):
    chance = {**solution, "parameters": {"score": "likelihood"}, "chain_score": -2.0, "confidence": 0.135}
    assert "log-probability; mean probability of a token 0.135" in shown(Solution.model_validate(chance))


def test_a_live_search_grows(solution: dict[str, Any]):
    live = LiveSearch()
    assert "0 candidates" in drawn(live)
    live.take(Opened(id="1", strategy="beam", parameters={"score": "prm"}, prompt_tokens=3))
    for candidate in solution["tree"]:
        live.take(Proposed(candidate=Candidate.model_validate({**candidate, "score": None, "kept": False})))
    live.take(Scored(path=(0,), score=0.75))
    live.take(Scored(path=(9,), score=0.99))
    live.take(Selected(kept=((0,),), pruned=((1,),)))
    text = drawn(live, colour=True)
    assert "depth 2, 4 candidates, 1 scored, best 0.750" in text
    assert "\x1b[2mAnswer: 13" in text
    assert "\x1b[2mRead row 0" not in text
    live.take(Answered(solution=Solution.model_validate(solution)))


def test_what_stands_beside_the_answer_is_shown_as_it_is(solution: dict[str, Any]) -> None:
    reply = Solution.model_validate({**solution, "answer_fields": {"reasoning": "So [bold]7[/bold] + 5."}})
    assert "So [bold]7[/bold] + 5." in drawn(chain_table(reply))


def test_steps_of_a_prm_that_judges_whole_answers_are_not_called_unscored(solution: dict[str, Any]):
    step = {**solution["steps"][0], "score": None}
    whole = Solution.model_validate({**solution, "steps": [step], "answer_score": 7.5})
    assert "unscored" not in drawn(chain_table(whole))
    missing = Solution.model_validate({**solution, "steps": [step], "answer_score": None})
    assert "unscored" in drawn(chain_table(missing))
