"""How large an answer may be: as large as the caller says, and too large once is too large for good."""

from __future__ import annotations

import pytest
import requests

from groq_queue import GroqQueue, GroqSimulator, Limits
from groq_queue.errors import APIConnectionError
from groq_queue.simulator import Fault


@pytest.mark.parametrize("is_own", [False, True], ids=["urllib3", "session"])
def test_an_answer_larger_than_allowed_is_bought_once(is_own: bool):
    """
    It would be as large the next time.
    """
    with (
        GroqSimulator(faults=[Fault(content="x" * 5_000)]) as groq,
        requests.Session() as session,
        GroqQueue(
            api_key="gsk_x",
            base_url=groq.base_url,
            model="llama-3.1-8b-instant",
            limits=Limits(),
            max_response_bytes=4_000,
            session=session if is_own else None,
        ) as queue,
    ):
        error = queue.submit("large").exception(60)
        assert isinstance(error, APIConnectionError)
        assert ("yes", True, 1) == (error.sent, error.is_final, error.attempts)
        assert 1 == groq.stats().received
