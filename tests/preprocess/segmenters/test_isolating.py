"""The cost of sentences that an engine fails at: bounded for each of them, whatever the engine says about how far it came."""

from typing import Any

import pytest

from preprocess.config import SegmenterConfig
from preprocess.segmenters.base import Rejected
from preprocess.segmenters.isolating import HURRY_AFTER, Interrupted, Isolating, Outcome


class Simulated(Isolating):
    """Fails at lines that begin with 悪."""

    name, remedy, description = "simulated", "Install another", dict[str, Any]()

    def __init__(self, knows: str) -> None:
        self._config, self._knows = SegmenterConfig(timeout_seconds=60.0), knows
        self.runs = self.lines = 0
        self.waited = 0.0

    def _tokenize(self, lines: list[str]) -> list[Any]:
        return list(self._settle(lines, self._run(lines)))

    def _run(self, batch: list[str]) -> Outcome:
        self.runs += 1
        place = next((n for n, line in enumerate(batch) if line.startswith("悪")), None)
        self.lines += len(batch) if place is None else place + 1
        if place is None:
            return list(batch)
        self.waited += self._patience
        if self._knows == "nothing":
            return Rejected("crash", "died")
        answers = batch[:place] if self._knows == "answers" else []
        return Interrupted("crash", "died", answers, 0 if self._knows == "a wrong line" else place)


SENTENCES = [f"悪{n}" if n % 12 == 5 else f"良{n}" for n in range(4800)]
GUILTY = 400


@pytest.mark.parametrize("knows", ["answers", "the line", "a wrong line", "nothing"])
def test_only_the_guilty_of_many_are_rejected(knows: str) -> None:
    engine = Simulated(knows)
    answers = engine.segment(SENTENCES)
    assert [isinstance(answer, Rejected) for answer in answers] == [line.startswith("悪") for line in SENTENCES]
    assert all(type(answer) is Rejected for answer in answers if isinstance(answer, Rejected))


@pytest.mark.parametrize(("knows", "a_sentence"), [("answers", 2), ("the line", 3)])
def test_four_hundred_hostile_lines_cost_a_bounded_number_of_processes_and_time(knows: str, a_sentence: int) -> None:
    engine = Simulated(knows)
    engine.segment(SENTENCES)
    assert engine.restarts <= a_sentence * GUILTY + HURRY_AFTER
    assert engine.lines <= 3 * len(SENTENCES), "lines are given to the engine again and again"
    # Fifteen seconds for each of the first, which are tried three times; then a second.
    assert engine.waited <= 3 * 15 * HURRY_AFTER + 2 * 1.0 * GUILTY


def test_one_hostile_line_of_a_batch_costs_four_processes_and_not_one_for_each_halving() -> None:
    for place in (0, 2500, 4999):
        engine = Simulated("the line")
        lines = ["良"] * 5000
        lines[place] = "悪"
        engine.segment(lines)
        assert engine.restarts <= 4 and engine.lines <= 2 * len(lines) + 10


def test_an_engine_that_holds_answers_back_is_halved_and_not_asked_again_for_each_line() -> None:
    engine = Simulated("a wrong line")
    engine.segment(["良"] * 4999 + ["悪"])
    assert engine.restarts < 40 and engine.lines < 8 * 5000


def test_a_new_group_has_the_usual_patience_again() -> None:
    from preprocess.segmenters.juman import SingleSentence

    single = SingleSentence.__new__(SingleSentence)
    single._config, single._failures = SegmenterConfig(), HURRY_AFTER
    single._ask = lambda line: line  # type: ignore[method-assign,assignment]
    assert single.segment(["一"]) == [["一"]] and single._failures == 0
