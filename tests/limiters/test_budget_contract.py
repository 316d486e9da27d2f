"""What the engine may rely on, whichever limiter counts: in this process, in a file, in a Redis."""

from __future__ import annotations

import random
from typing import Any

import pytest

from groq_queue.clock import NS_PER_S
from groq_queue.core.budget import Blocked, Lease, TooLarge
from groq_queue.core.headers import RateHeader, Refusal
from groq_queue.core.limits import Limits
from groq_queue.core.token_estimate import PromptSize


def exact(tokens: int) -> PromptSize:
    return PromptSize(tokens, 0, is_exact=True)


def leased(organisation: Any, meter: Any, size: PromptSize, **turn: Any) -> Lease:
    granted = organisation.ask(meter, size, **turn)
    assert isinstance(granted, Lease), granted
    return granted


def used(organisation: Any, meter: Any) -> dict[str, int]:
    return {level.dimension: level.used for level in meter.levels(organisation.now_ns())}


@pytest.mark.parametrize(
    ("limits", "in_use", "requested", "wait_s"),
    [
        (Limits(tpd=100_000), 97_050, 3_619, 578.016),
        (Limits(tpm=6_000), 5_914, 1_822, 17.36),
        (Limits(tpm=6_000), 3_513, 3_166, 6.79),
    ],
)
def test_the_wait_that_is_told_is_the_servers(
    organisation: Any, limits: Limits, in_use: int, requested: int, wait_s: float
) -> None:
    one, two = organisation.process(limits), organisation.process(limits)
    organisation.settle(one, leased(organisation, one, exact(in_use)), (in_use, 0, 0), size=exact(in_use))

    blocked = organisation.ask(two, exact(requested))
    told = two.blocks(exact(requested), organisation.now_ns())

    assert isinstance(blocked, Blocked)
    assert round(wait_s * NS_PER_S) - organisation.slack_ns <= told.wait_ns <= round(wait_s * NS_PER_S)


def test_what_one_takes_another_cannot(organisation: Any) -> None:
    limits = Limits(tpm=1_000)
    one, two = organisation.process(limits), organisation.process(limits)
    lease = leased(organisation, one, exact(600))

    blocked = organisation.ask(two, exact(600))
    one.refund(lease)
    organisation.advance(0.1)  # a process looks 20 times a second

    assert isinstance(blocked, Blocked)
    assert isinstance(organisation.ask(two, exact(600)), Lease)


@pytest.mark.parametrize("spent", [{"rpm": 1}, {"rpd": 1}, {"tpm": 150}, {"tpd": 150}, {"itpm": 100}, {"otpm": 50}])
def test_a_lease_is_of_every_dimension_or_of_none(organisation: Any, spent: dict[str, int]) -> None:
    """
    One dimension is spent by the first; the second takes nothing of the others.
    """
    limits = Limits(**{"rpm": 9, "rpd": 9, "tpm": 900, "tpd": 900, "itpm": 900, "otpm": 900, **spent})
    meter, size = organisation.process(limits), PromptSize(100, 50, is_exact=True)
    leased(organisation, meter, size)

    denied = organisation.ask(meter, size, request_id="second")

    assert isinstance(denied, Blocked)
    assert {"RPM": 1, "RPD": 1, "TPM": 150, "TPD": 150, "ITPM": 100, "OTPM": 50} == used(organisation, meter)


def test_real_use_replaces_the_estimate_where_credit_is_given(organisation: Any) -> None:
    """
    Answers of a server that gives back what was not used prove it; then everybody has the credit.
    """
    limits = Limits(tpm=10_000)
    one, two = organisation.process(limits), organisation.process(limits)
    for number in range(12):
        lease = leased(organisation, one, PromptSize(100, 900), request_id=str(number))
        seen = [RateHeader("TPM", 10_000, 10_000 - 110 * (number + 1))]
        organisation.settle(one, lease, (100, 10, 0), seen, PromptSize(100, 900))
    organisation.advance(1)

    assert isinstance(organisation.ask(two, exact(6_000)), Lease)


def test_a_refusal_of_the_server_holds_everybody(organisation: Any) -> None:
    limits = Limits(tpm=1_000)
    one, two = organisation.process(limits), organisation.process(limits)
    lease = leased(organisation, one, exact(10))
    one.refused(lease, exact(10), Refusal(False, "TPM", 1_000, 995, 10, NS_PER_S), NS_PER_S, organisation.now_ns())
    organisation.pump()

    blocked = organisation.ask(two, exact(10))
    organisation.advance(1.1)

    assert isinstance(blocked, Blocked)
    assert "hold" == blocked.reason
    assert isinstance(organisation.ask(two, exact(10)), Lease)


def test_what_never_fits_is_told_at_once(organisation: Any) -> None:
    meter = organisation.process(Limits(tpm=1_000))

    assert TooLarge(1_001, 1_000, "TPM") == meter.too_large(exact(1_001)) == organisation.ask(meter, exact(1_001))


def test_unknown_limits_are_learnt_one_request_at_a_time(organisation: Any) -> None:
    meter = organisation.process(None)
    probe = leased(organisation, meter, exact(10))
    blocked = organisation.ask(meter, exact(10), request_id="second")

    organisation.settle(meter, probe, (10, 0, 0), [RateHeader("TPM", 1_000, 400)], exact(10))

    assert isinstance(blocked, Blocked)
    assert "learning" == blocked.reason
    assert isinstance(organisation.ask(meter, exact(300), request_id="third"), Lease)
    assert isinstance(organisation.ask(meter, exact(300), request_id="fourth"), Blocked)


@pytest.mark.parametrize("first", ["settle", "refund", "refused"])
@pytest.mark.parametrize("second", ["settle", "refund", "refused"])
def test_a_lease_ends_once(organisation: Any, first: str, second: str) -> None:
    meter = organisation.process(Limits(tpm=1_000))
    lease = leased(organisation, meter, exact(400))

    def end(how: str) -> None:
        if how == "settle":
            organisation.settle(meter, lease, (400, 0, 0), size=exact(400))
        elif how == "refund":
            meter.refund(lease)
        else:
            meter.refused(lease, exact(400), None, 0, organisation.now_ns())
        organisation.pump()

    end(first)
    before = used(organisation, meter)["TPM"]
    end(second)

    assert (400 if first == "settle" else 0) - 2 <= used(organisation, meter)["TPM"] <= before


@pytest.mark.parametrize("seed", range(3))
def test_no_history_of_three_processes_passes_the_limit(organisation: Any, seed: int) -> None:
    """
    The server of the oracle meters each request at a random moment of its flight and keeps what was requested.
    """
    rng = random.Random(seed)
    meters = [organisation.process(Limits(tpm=1_000, minute_s=10)) for _ in range(3)]
    flying: list[tuple[Any, Lease, int, int]] = []
    arrivals: list[tuple[int, int]] = []
    for step in range(300):
        act = rng.random()
        if act < 0.5:
            meter, tokens = rng.choice(meters), rng.randint(1, 400)
            granted = organisation.ask(
                meter, PromptSize(0, tokens, is_exact=True), request_id=str(step), priority=rng.choice((1, 5, 8))
            )
            if isinstance(granted, Lease):
                flying.append((meter, granted, tokens, organisation.now_ns()))
            meter.withdraw()
        elif act < 0.8 and flying:
            meter, lease, tokens, since_ns = flying.pop(rng.randrange(len(flying)))
            arrivals.append((rng.randint(since_ns, organisation.now_ns()), tokens))
            organisation.settle(meter, lease, (0, rng.randint(1, tokens), 0), size=PromptSize(0, tokens, is_exact=True))
        else:
            organisation.advance(rng.uniform(0.001, 0.3))
    for meter, lease, tokens, since_ns in flying:
        arrivals.append((since_ns, tokens))
        meter.refund(lease)

    level = last_ns = 0
    for when_ns, tokens in sorted(arrivals):
        level = max(0, level - (when_ns - last_ns) * 1_000) + tokens * 10 * NS_PER_S
        last_ns = when_ns
        assert level <= 1_000 * 10 * NS_PER_S
    assert 20 < len(arrivals)
