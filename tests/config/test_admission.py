"""The way in: what is refused before it waits, what a turn costs, and who gets the request."""

from __future__ import annotations

import json
from typing import Any

import pytest

from groq_queue.core.limits import Limits
from groq_queue.core.price_table import PriceTable
from groq_queue.core.request import Request
from groq_queue.core.token_estimate import PromptSize
from groq_queue.errors import ConfigurationError, RequestTooLarge
from groq_queue.limiters.in_process import ProcessLimiter
from groq_queue.wiring.admission import Admission, Intake


def admission(*, is_capped: bool = False, by_tokens: bool = False) -> Admission:
    prices = PriceTable({"priced": (1.0, 1.0)})
    return Admission(ProcessLimiter(Limits(tpm=100)), prices, is_capped=is_capped, by_tokens=by_tokens)


def request(prompt: int, completion: int, model: str = "priced", *, shrinks: bool = False) -> Request:
    body = json.dumps({"model": model, "messages": [], "max_completion_tokens": completion}).encode()
    return Request(model, "chat/completions", body, PromptSize(prompt, completion), 5, shrinks=shrinks)


def test_a_request_that_no_limit_ever_lets_through_is_refused():
    with pytest.raises(RequestTooLarge, match=r"110 .*100"):
        admission().prepare(request(60, 50))


def test_one_that_may_be_shrunk_is_made_to_fit():
    asked = request(60, 50, shrinks=True)

    admission().prepare(asked)

    assert 40 == asked.size.completion == json.loads(asked.body or b"")["max_completion_tokens"]


def test_a_turn_costs_one_or_the_tokens_it_is_priced_at():
    by_request, by_tokens = request(60, 10), request(60, 10)

    admission().prepare(by_request)
    admission(by_tokens=True).prepare(by_tokens)

    assert (1, 70) == (by_request.turn_cost, by_tokens.turn_cost)


def test_a_model_without_a_price_is_refused_only_where_spending_is_capped():
    admission().prepare(request(1, 1, "mystery"))
    with pytest.raises(ConfigurationError, match="no price of model 'mystery'"):
        admission(is_capped=True).prepare(request(1, 1, "mystery"))


class Recorder:
    """Stands for an engine or for a journal, and asks at each submit whether it is inside one."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.intake: Intake | None = None

    def submit(self, given: Request, callback: Any = None) -> str:
        assert self.intake is not None
        self.seen += [given.size, self.intake.is_interrupted()]
        if given.client == "broken":
            raise OSError("broken")
        return "future"


def intake(*, has_journal: bool = False) -> tuple[Intake, Recorder, Recorder]:
    engine, journal = Recorder(), Recorder()
    made = Intake(admission(), journal if has_journal else None, engine)  # type: ignore[arg-type]
    engine.intake = journal.intake = made
    return made, engine, journal


def test_what_is_priced_goes_to_the_engine_and_with_a_journal_to_the_journal():
    direct, engine, _ = intake()
    kept, unasked, journal = intake(has_journal=True)

    assert "future" == direct.accept(request(1, 1), None) == kept.accept(request(1, 1), None)
    assert [PromptSize(1, 1), True] == engine.seen == journal.seen
    assert [] == unasked.seen


def test_the_engine_never_sees_what_is_too_large():
    made, engine, _ = intake()

    with pytest.raises(RequestTooLarge):
        made.accept(request(60, 50), None)
    assert [] == engine.seen


def test_only_inside_a_submit_is_a_handler_told_that_it_interrupted_one():
    made, engine, _ = intake()
    broken = request(1, 1)
    broken.client = "broken"

    assert not made.is_interrupted()
    with pytest.raises(OSError, match="broken"):
        made.accept(broken, None)
    assert True is engine.seen[1]
    assert not made.is_interrupted()
