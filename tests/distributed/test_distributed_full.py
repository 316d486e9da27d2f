"""A full queue over workers says when to try again as soon as one of them has begun with something."""

from __future__ import annotations

import pytest

from groq_queue.clock import NS_PER_S
from groq_queue.core.price_table import PriceTable
from groq_queue.core.request import Request, State
from groq_queue.core.token_estimate import PromptSize
from groq_queue.distributed.codec import Ending
from groq_queue.distributed.submitted import SubmittedRequests


@pytest.fixture
def submitted():
    return SubmittedRequests(PriceTable(), 1, None)


def accepted(submitted, count):
    requests = [Request("m", "chat/completions", b"{}", PromptSize(1, 1), 5) for _ in range(count)]
    for request in requests:
        submitted.accept(request)
    return requests


def test_nobody_knows_before_a_worker_has_begun(submitted):
    (one,) = accepted(submitted, 1)

    assert submitted.full(one, 0).retry_after is None


def test_after_the_first_start_it_is_a_second_or_as_long_as_that_attempt_has_taken(submitted):
    one, two = accepted(submitted, 2)
    submitted.began(one.id, 1, 10 * NS_PER_S)

    assert 1.0 == submitted.full(two, 10 * NS_PER_S).retry_after
    assert 4.0 == submitted.full(two, 14 * NS_PER_S).retry_after


def test_later_it_is_as_starts_come_and_no_sooner_than_attempts_end(submitted):
    one, two, three = accepted(submitted, 3)
    submitted.began(one.id, 1, 10 * NS_PER_S)
    submitted.end(one.id, Ending(State.COMPLETED, attempts=1), 16 * NS_PER_S)
    submitted.began(two.id, 1, 18 * NS_PER_S)

    assert 8.0 == submitted.full(three, 18 * NS_PER_S).retry_after
