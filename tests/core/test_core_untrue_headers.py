"""Headers that tell less than is in use: they may lower a level only until our own requests disprove them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from groq_queue.core.budget import Budget, Lease
from groq_queue.core.headers import RateHeader, Refusal
from groq_queue.core.limits import Limits
from groq_queue.core.token_estimate import TokenCost

SECOND = 1_000_000_000
NOW = 5_000 * SECOND
LIMIT = 6_000
FLIGHT = SECOND // 100
Told = Callable[["Server"], int]


class Server:
    """Counts tokens as it should, and tells in its headers what *told* makes of it.

    Args:
        told: Returns the level for a header.
        gives_back: What a request asked for and did not use is given back at its answer.
    """

    def __init__(self, told: Told, *, gives_back: bool = False) -> None:
        self.told, self.gives_back = told, gives_back
        self.full_ns = 0  # when the level, times LIMIT, is back at zero
        self.refused = self.served = 0
        self.levels: list[tuple[int, int]] = []

    def level(self, now_ns: int) -> int:
        return max(0, self.full_ns - now_ns * LIMIT) // (60 * SECOND)

    def takes(self, asked: int, now_ns: int) -> bool:
        if self.level(now_ns) + asked > LIMIT:
            self.refused += 1
            return False
        self.full_ns = max(self.full_ns, now_ns * LIMIT) + asked * 60 * SECOND
        self.served += 1
        self.levels.append((now_ns, self.level(now_ns)))
        return True


def never_falls(server: Server) -> int:
    return 0


def lags_a_second(server: Server) -> int:
    newest_ns = server.levels[-1][0]
    return next((level for at_ns, level in reversed(server.levels) if at_ns <= newest_ns - SECOND), 0)


def one_of_four_replicas(server: Server) -> int:
    return server.levels[-1][1] // 4


def tells_the_truth(server: Server) -> int:
    return server.levels[-1][1]


def drain(
    server: Server,
    budget: Budget,
    requests: int,
    cost: TokenCost,
    used: TokenCost,
    *,
    has_figures: bool = True,
    start_ns: int = NOW,
) -> int:
    """Send one after the other, as soon as the budget allows, and return the time it took."""
    now_ns, left = start_ns, requests
    while left:
        lease = budget.lease(cost, now_ns)
        if not isinstance(lease, Lease):
            assert lease.wait_ns, lease
            now_ns += lease.wait_ns
            continue
        is_taken = server.takes(cost.tokens, now_ns)
        sent_ns, now_ns = now_ns, now_ns + FLIGHT
        if is_taken:
            left -= 1
            budget.settle(lease, cost, used, now_ns, is_proven=True)
            header = RateHeader("TPM", LIMIT, LIMIT - server.told(server), None)
            budget.observe(lease, [header], now_ns)
            if server.gives_back:
                server.full_ns -= (cost.tokens - used.tokens) * 60 * SECOND
            continue
        level = server.level(sent_ns)
        wait_ns = (level + cost.tokens - LIMIT) * 60 * SECOND // LIMIT
        refusal = Refusal(False, "TPM", LIMIT, level, cost.tokens, wait_ns) if has_figures else None
        budget.refused(lease, refusal, wait_ns if has_figures else SECOND, now_ns)
    return now_ns - start_ns


@pytest.mark.parametrize("told", [never_falls, lags_a_second, one_of_four_replicas])
@pytest.mark.parametrize("has_figures", [True, False])
def test_headers_that_our_own_use_disproves_lead_to_hardly_a_refusal(told: Told, has_figures: bool) -> None:
    """
    Every request of 500 uses all of it; twelve fill the limit, and the others come at its pace.
    """
    server = Server(told)

    took_ns = drain(server, Budget(Limits(tpm=LIMIT)), 24, TokenCost(500), TokenCost(500), has_figures=has_figures)

    assert 24 == server.served
    assert server.refused <= 2
    assert took_ns <= 65 * SECOND


@pytest.mark.parametrize("told", [never_falls, lags_a_second, one_of_four_replicas])
@pytest.mark.parametrize("has_figures", [True, False])
def test_headers_of_a_server_that_keeps_what_was_asked_for_are_disproved_by_refusals(
    told: Told, has_figures: bool
) -> None:
    """
    A tenth is used and all of it is charged, so that use alone disproves nothing.
    """
    server = Server(told)

    drain(server, Budget(Limits(tpm=LIMIT)), 24, TokenCost(50, 450), TokenCost(50), has_figures=has_figures)

    assert 24 == server.served
    assert server.refused <= 4


def test_headers_that_tell_the_truth_are_believed_for_ever() -> None:
    """
    The server gives nine tenths back; whoever did not believe its headers would need ten times as long.
    """
    server = Server(tells_the_truth, gives_back=True)

    took_ns = drain(server, Budget(Limits(tpm=LIMIT)), 400, TokenCost(50, 450), TokenCost(50))

    assert (400, 0) == (server.served, server.refused)
    assert took_ns <= 150 * SECOND


def test_a_program_beside_us_does_not_make_true_headers_untrue() -> None:
    """
    It spends so that ours are refused now and then; what our own asked for never explains those levels.
    """
    server = Server(tells_the_truth, gives_back=True)
    budget = Budget(Limits(tpm=LIMIT))
    drain(server, budget, 100, TokenCost(50, 450), TokenCost(50))
    for minute in range(60, 65):
        now_ns = NOW + minute * 60 * SECOND
        lease = budget.lease(TokenCost(50, 450), now_ns)
        assert isinstance(lease, Lease)
        budget.refused(lease, Refusal(False, "TPM", LIMIT, 5_700, 500, 2 * SECOND), 2 * SECOND, now_ns)

    assert budget.refunds_unused
    assert budget.may_be_lowered("TPM", LIMIT)


def test_a_server_that_forgets_what_was_used_does_not_stall_a_program_that_asked_for_much_more() -> None:
    """
    Of what the program has asked for in all its life, most was given back; that never counts as level again.
    """
    server, budget = Server(tells_the_truth, gives_back=True), Budget(Limits(tpm=LIMIT))
    took_ns = drain(server, budget, 400, TokenCost(50, 450), TokenCost(50))
    server.full_ns = 0

    took_ns = drain(server, budget, 400, TokenCost(50, 450), TokenCost(50), start_ns=NOW + took_ns)

    assert took_ns <= 215 * SECOND
    assert budget.refunds_unused


@pytest.mark.parametrize("margin", [0.1, 0.3])
def test_a_margin_makes_true_headers_no_untrue_ones_and_is_kept(margin: float) -> None:
    """
    Our buckets drain more slowly than the server's then, so that its levels are lower than ours.
    """
    server, budget = Server(tells_the_truth, gives_back=True), Budget(Limits(tpm=LIMIT))
    budget.set_limits(Limits(tpm=LIMIT), NOW, margin)
    ideal_ns = round((400 * 50 / (1 - margin) - LIMIT) / LIMIT * 60 * SECOND)

    took_ns = drain(server, budget, 400, TokenCost(50, 450), TokenCost(50))

    assert (400, 0) == (server.served, server.refused)
    assert ideal_ns <= took_ns <= ideal_ns + 15 * SECOND
    assert budget.may_be_lowered("TPM", LIMIT)


def test_headers_that_were_not_contradicted_for_three_periods_are_believed_again() -> None:
    """
    The program beside us that spent what we did not has ended.
    """
    server, budget = Server(never_falls), Budget(Limits(tpm=LIMIT))
    took_ns = drain(server, budget, 24, TokenCost(500), TokenCost(500))
    was_believed = budget.may_be_lowered("TPM", LIMIT)
    server.told = tells_the_truth

    for minutes in (2, 4):
        drain(server, budget, 1, TokenCost(500), TokenCost(500), start_ns=NOW + took_ns + minutes * 60 * SECOND)
        if minutes == 2:
            assert not budget.may_be_lowered("TPM", LIMIT)

    assert not was_believed
    assert budget.may_be_lowered("TPM", LIMIT)


def test_a_header_of_requests_that_never_falls_is_disproved_like_one_of_tokens() -> None:
    budget = Budget(Limits(rpd=1_000))
    for number in range(400):
        lease = budget.lease(TokenCost(1), NOW + number)
        assert isinstance(lease, Lease)
        budget.settle(lease, TokenCost(1), TokenCost(1), NOW + number, is_proven=True)
        budget.observe(lease, [RateHeader("RPD", 1_000, 1_000, None)], NOW + number)

    assert [400] == [level.used for level in budget.levels(NOW + 400)]
    assert not budget.may_be_lowered("RPD", 1_000)
