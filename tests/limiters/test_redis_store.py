"""What only the store in Redis has to do: forgetful servers, its numbers, its keys; the rest is every store's."""

from __future__ import annotations

import random
import sys
import threading

import pytest
from extras import needs
from redis_server import RedisServer, let_pass
from stores import RedisStore
from waiting import wait_until

from groq_queue.clock import NS_PER_S, FakeClock
from groq_queue.core.budget import Blocked, TooLarge
from groq_queue.errors import ConfigurationError, LimiterUnavailable, MissingExtraError
from groq_queue.limiters.store import ReservationRequest, Reserved, ServerLimit

redis = needs("redis", is_module=True)

from groq_queue.limiters import redis as redis_store  # noqa: E402
from groq_queue.limiters.redis import RedisBudgetStore  # noqa: E402

MINUTE = 60 * NS_PER_S
DAY = 86_400 * NS_PER_S
SLOW = {"RPM": (600, DAY), "TPM": (60_000, DAY)}  # what drains while a test runs does not show
LANE = "https://api.groq.com/openai/v1 gsk_very_secret llama"


@pytest.fixture
def opened(redis_server):
    """Open stores of one scope on an empty server; all are closed at the end."""
    processes = []

    def open_one(clock=None):
        processes.append(RedisBudgetStore.open(f"{redis_server.url}?scope=acme", clock))
        return processes[-1]

    yield open_one
    for budgets in processes:
        budgets.close()


@pytest.fixture
def server(redis_server):
    """A plain client of the same server, to look behind the scenes."""
    client = redis.Redis.from_url(redis_server.url)
    yield client
    client.close()


def claim(budgets, number, tokens=100, lane=LANE, **facts):
    return ReservationRequest(f"{budgets.token}:{number}", lane, {"RPM": 1, "TPM": tokens, "OTPM": 0}, **facts)


def used(budgets, dimension="TPM", lane=LANE):
    return {level.dimension: level.used for level in budgets.status(lane).levels}[dimension]


def key_of(server, what):
    [key] = [key for key in server.scan_iter("gq:*") if key.endswith(b":" + what)]
    return key


def pretend_dead(server, budgets):
    """Make it so long since that process was heard of."""
    server.zadd(key_of(server, b"processes"), {budgets.token: 1})


def heal(server):
    """Make the pause after a loss over."""
    server.hdel(key_of(server, b"state"), "heal")


class TestItsNumbers:
    def test_a_day_of_tokens_fits_to_the_last_one(self, opened):
        """
        500,000 units of 86,400,000,000 us pass what a double can hold exactly.
        """
        budgets = opened()
        limits = {"TPD": (500_000, DAY)}

        whole = budgets.reserve(ReservationRequest(f"{budgets.token}:1", LANE, {"TPD": 500_000}), limits)
        more = budgets.reserve(ReservationRequest(f"{budgets.token}:2", LANE, {"TPD": 1}), limits)

        assert isinstance(whole, Reserved)
        assert more == Blocked("limit", None, "TPD", 500_000, 500_000)
        assert 500_000 == used(budgets, "TPD")

    @pytest.mark.parametrize("limit", [3, 499_979, 10**9 + 7, 10**12])
    def test_no_charge_is_rounded_away(self, opened, limit):
        """
        A thousand charges of the same size are a thousand times that size, or a hair more.
        """
        budgets = opened()
        limits = {"TPD": (limit, 10 * DAY)}
        units = max(1, limit // 10_000)

        for _ in range(1_000):
            budgets.charge(LANE, {"TPD": units}, limits)

        drained = limit * 60 // 864_000 + 1  # in a minute, at most
        assert 1_000 * units - drained <= used(budgets, "TPD") <= 1_000 * units * 1.001 + 1

    def test_a_wait_is_enough(self, opened, redis_server):
        """
        Whoever comes when it was told to comes in, by the server's own clock.
        """
        budgets = opened()
        limits = {"TPM": (60_000, MINUTE)}
        budgets.charge(LANE, {"TPM": 60_000}, limits)

        blocked = budgets.reserve(ReservationRequest(f"{budgets.token}:1", LANE, {"TPM": 1_000}), limits)
        let_pass(redis_server.port, blocked.wait_ns // 1_000)

        assert 0 < blocked.wait_ns <= NS_PER_S
        assert isinstance(
            budgets.reserve(ReservationRequest(f"{budgets.token}:1", LANE, {"TPM": 1_000}), limits), Reserved
        )

    def test_what_never_fits_is_told_and_leaves_the_line(self, opened):
        budgets, other = opened(), opened()

        refused = budgets.reserve(claim(budgets, 1, 60_001), SLOW)

        assert refused == TooLarge(60_001, 60_000, "TPM")
        assert isinstance(other.reserve(claim(other, 1), SLOW), Reserved)

    def test_limits_of_one_size_are_not_taken_for_each_other(self, opened):
        """
        Sizes are sent only if the store does not have them: OTPM's are not TPM's.
        """
        budgets, same = opened(), (1_000, DAY)
        budgets.charge(LANE, {"OTPM": 1}, {"OTPM": same})

        budgets.charge(LANE, {"TPM": 5}, {"OTPM": same, "TPM": same})

        assert (1, 5) == (used(budgets, "OTPM"), used(budgets, "TPM"))

    def test_a_limit_that_another_process_changed_is_changed_back_by_whoever_goes_by_it(self, opened):
        budgets, other = opened(), opened()
        for each, limit in ((budgets, 1_000), (other, 500), (budgets, 1_000), (budgets, 1_000)):
            each.charge(LANE, {"TPM": 1}, {"TPM": (limit, DAY)})

        assert [1_000] == [level.limit for level in other.status(LANE).levels]


class TestItsKeys:
    def test_they_hold_no_name_and_no_secret(self, opened, server):
        budgets = opened()
        budgets.charge(LANE, {"TPM": 60_000}, SLOW)
        budgets.reserve(claim(budgets, 1, 50_000, client="alice@example.com"), SLOW)
        everything = b"".join(key + server.dump(key) for key in server.keys("*"))

        assert b"acme" in everything
        for secret in (b"gsk_", b"secret", b"groq.com", b"llama", b"alice"):
            assert secret not in everything

    def test_all_keys_of_a_lane_lie_in_one_slot_and_end_some_day(self, opened, server):
        budgets, other = opened(), opened()
        budgets.reserve(claim(budgets, 1), SLOW)
        budgets.reserve(claim(budgets, 2, 60_000), SLOW)
        other.refund(LANE, "unknown")
        budgets.settle(LANE, f"{budgets.token}:1", {"RPM": 1}, {"RPM": 1}, {}, SLOW)

        keys = server.keys("*")

        assert 1 == len({redis.crc.key_slot(key) for key in keys})
        assert 7 == len(keys) + (not server.exists(keys[0].rpartition(b":")[0] + b":leases"))
        assert all(server.pttl(key) > 0 for key in keys)

    def test_to_look_makes_none(self, opened, server):
        standing = opened().status(LANE)

        assert ([], 1) == (standing.levels, standing.processes)
        assert [] == server.keys("*")

    def test_scopes_and_lanes_do_not_meet(self, opened, redis_server):
        budgets, stranger = opened(), RedisBudgetStore.open(f"{redis_server.url}?scope=other")
        budgets.charge(LANE, {"TPM": 60_000}, SLOW)

        assert isinstance(stranger.reserve(claim(stranger, 1), SLOW), Reserved)
        assert isinstance(budgets.reserve(claim(budgets, 1, lane="another"), SLOW), Reserved)
        stranger.close()

    def test_an_ended_claim_leaves_nothing_but_its_end(self, opened, server):
        budgets = opened()
        for number in range(50):
            budgets.reserve(claim(budgets, number, 1, client=f"client {number}"), SLOW)
            budgets.settle(LANE, f"{budgets.token}:{number}", {"TPM": 1}, {"TPM": 1}, {}, SLOW)

        sizes = {key.rpartition(b":")[2]: server.memory_usage(key) for key in server.keys("*")}

        assert {b"state", b"processes", b"turns", b"ended"} == set(sizes)


class TestAForgetfulServer:
    def test_a_flushed_script_is_sent_again(self, opened, redis_server):
        budgets = opened()
        budgets.charge(LANE, {"TPM": 500}, SLOW)

        redis_server.ask("SCRIPT FLUSH")

        assert 500 == used(budgets)

    def test_after_a_flush_nobody_is_granted_anything_until_all_have_told_what_they_know(self, opened, redis_server):
        budgets, other = opened(), opened()
        budgets.reserve(claim(budgets, 1, 40_000), SLOW)
        other.charge(LANE, {"TPM": 15_000}, SLOW)

        redis_server.ask("FLUSHALL")
        first = budgets.reserve(claim(budgets, 2, 10_000), SLOW)
        other.status(LANE)

        assert "hold" == first.reason
        assert first.wait_ns <= 2 * NS_PER_S
        assert 55_000 == used(budgets) == used(other)

    def test_after_the_pause_it_goes_on_with_the_levels_of_before(self, opened, redis_server, server):
        budgets, other = opened(), opened()
        budgets.reserve(claim(budgets, 1, 40_000), SLOW)
        other.charge(LANE, {"TPM": 15_000}, SLOW)
        redis_server.ask("FLUSHALL")
        other.status(LANE)
        budgets.status(LANE)

        heal(server)
        too_much = budgets.reserve(claim(budgets, 2, 5_001), SLOW)
        budgets.refund(LANE, f"{budgets.token}:2")

        assert ("limit", "TPM") == (too_much.reason, too_much.dimension)
        assert isinstance(budgets.reserve(claim(budgets, 3, 5_000), SLOW), Reserved)

    def test_a_newcomer_after_a_flush_waits_for_the_memory_of_those_who_listen(self, opened, redis_server):
        budgets, newcomer = opened(), opened()
        budgets.charge(LANE, {"TPM": 60_000}, SLOW)
        budgets.reserve(claim(budgets, 1), SLOW)  # waits, so it listens
        assert budgets.has_changed()  # its first look

        redis_server.ask("FLUSHALL")
        first = newcomer.reserve(claim(newcomer, 1), SLOW)

        assert "hold" == first.reason
        assert is_told(budgets)
        assert 60_000 == used(budgets)

    def test_who_waits_remembers_what_others_were_charged_last(self, opened, redis_server):
        """
        The one who knew best says nothing more; the waiter has heard of it.
        """
        waiter, silent = opened(), opened()
        silent.reserve(claim(silent, 1, 60_000), SLOW)
        waiter.reserve(claim(waiter, 1), SLOW)
        waiter.has_changed()
        silent.settle(LANE, f"{silent.token}:1", {"TPM": 59_000}, {"TPM": 59_000}, {}, SLOW)
        assert is_told(waiter) or waiter._lanes[LANE].due_ns is not None

        redis_server.ask("FLUSHALL")

        assert 59_000 == used(waiter)

    def test_a_reminder_that_does_not_come_through_is_given_again(self, opened, redis_server):
        """
        The server forgets, is told so, and goes away before it has heard the rest.
        """
        budgets = opened()
        budgets.charge(LANE, {"TPM": 30_000}, SLOW)
        redis_server.ask("FLUSHALL")
        run, calls = budgets._client.evalsha, []

        def run_first(*arguments):
            calls.append(arguments)
            if len(calls) == 1:  # it does not know the script, or it does: it says that it has forgotten
                return run(*arguments)
            raise redis.ConnectionError("gone")

        budgets._client.evalsha = run_first
        with pytest.raises(LimiterUnavailable):
            budgets.status(LANE)

        assert 30_000 == used(budgets)
        assert 2 == len(calls)

    def test_what_is_charged_between_two_memories_is_not_lost(self, opened, redis_server):
        """
        Who comes second knew more: 30,000 where the first knew 10,000, to which 7 were added meanwhile.
        """
        early, late = opened(), opened()
        early.charge(LANE, {"TPM": 10_000}, SLOW)
        late.charge(LANE, {"TPM": 20_000}, SLOW)

        redis_server.ask("FLUSHALL")
        early.charge(LANE, {"TPM": 7}, SLOW)
        assert 10_007 == used(early)

        assert 30_007 == used(late)

    def test_a_settlement_after_a_flush_counts_once(self, opened, redis_server):
        budgets = opened()
        budgets.reserve(claim(budgets, 1, 40_000), SLOW)
        redis_server.ask("FLUSHALL")

        for _ in range(3):
            budgets.settle(LANE, f"{budgets.token}:1", {"TPM": 40_000}, {"TPM": 40_000}, {}, SLOW)

        assert 40_000 == used(budgets)

    def test_a_restart_without_a_file_is_as_a_flush(self, opened, redis_server):
        budgets = opened()
        budgets.reserve(claim(budgets, 1, 40_000), SLOW)

        redis_server.kill()
        with pytest.raises(LimiterUnavailable):
            budgets.status(LANE)
        redis_server.start()

        assert "hold" == budgets.reserve(claim(budgets, 2), SLOW).reason
        assert 40_000 == used(budgets)

    def test_an_older_copy_of_the_store_is_noticed_and_mended(self, opened, server):
        """
        As a replica that lagged, or a snapshot: one lease it holds has ended since, one it never saw.
        """
        budgets = opened()
        budgets.reserve(claim(budgets, 1, 10_000), SLOW)
        copy = {key: server.dump(key) for key in server.keys("*")}
        budgets.settle(LANE, f"{budgets.token}:1", {"TPM": 10_000}, {"TPM": 10_000}, {}, SLOW)
        budgets.reserve(claim(budgets, 2, 20_000), SLOW)
        budgets.charge(LANE, {"TPM": 5}, SLOW)

        server.flushall()
        for key, value in copy.items():
            server.restore(key, 0, value)

        assert 30_005 == used(budgets)
        assert "hold" == budgets.reserve(claim(budgets, 3), SLOW).reason
        budgets.refund(LANE, f"{budgets.token}:2")
        assert 10_005 == used(budgets)

    def test_a_claim_that_only_an_older_copy_remembers_holds_nobody_up(self, opened, server):
        budgets, other = opened(), opened()
        other.reserve(claim(other, 1, 60_000), SLOW)
        budgets.reserve(claim(budgets, 1, 100, priority=0), SLOW)
        copy = {key: server.dump(key) for key in server.keys("*")}
        other.refund(LANE, f"{other.token}:1")
        assert isinstance(budgets.reserve(claim(budgets, 1, 100, priority=0), SLOW), Reserved)
        budgets.refund(LANE, f"{budgets.token}:1")
        server.flushall()
        for key, value in copy.items():
            server.restore(key, 0, value)

        budgets.status(LANE)
        other.status(LANE)
        heal(server)

        assert isinstance(other.reserve(claim(other, 2, 60_000), SLOW), Reserved)

    def test_the_proof_that_allowance_comes_back_is_remembered(self, opened, redis_server, server):
        budgets = opened()
        for number in range(1, 6):
            budgets.reserve(claim(budgets, number, 10_000), SLOW)
            told = {"TPM": ServerLimit(60_000, 60_000 - 10 * number, True)}
            budgets.settle(LANE, f"{budgets.token}:{number}", {"TPM": 10_000}, {"TPM": 10}, told, SLOW)
        assert budgets.status(LANE).refunds_unused

        redis_server.ask("FLUSHALL")

        assert budgets.status(LANE).refunds_unused


@pytest.mark.parametrize("seed", range(5))
def test_no_history_of_a_forgetful_server_passes_the_limit(redis_server, seed):
    """
    Flushed again and again; those who live tell what they know before the pause is over. The oracle is a server that
    meters each request at a random moment of its flight, and keeps what was requested.
    """
    rng, store = random.Random(seed), RedisStore(redis_server)
    processes = [store.open() for _ in range(3)]
    limits = {"TPM": (1_000, 10 * NS_PER_S)}
    flying, arrivals, flushes = [], [], 0
    for number in range(800):
        act, budgets = rng.random(), rng.choice(processes)
        if act < 0.5:
            asked = ReservationRequest(f"{budgets.token}-{number}", LANE, {"TPM": rng.randint(1, 400)})
            if isinstance(budgets.reserve(asked, limits), Reserved):
                flying.append((budgets, asked, store.now_s()))
            else:
                budgets.refund(LANE, asked.id)
        elif act < 0.75 and flying:
            owner, asked, since_s = flying.pop(rng.randrange(len(flying)))
            arrivals.append((rng.uniform(since_s, store.now_s()), asked.cost["TPM"]))
            owner.settle(LANE, asked.id, asked.cost, {"TPM": 1}, {}, limits)
        elif act < 0.76:
            flushes += 1
            redis_server.ask("FLUSHALL")
            for each in processes:
                each.status(LANE)
        else:
            store.advance(rng.uniform(0.01, 1.0))
    store.close()

    level = last_s = 0.0
    for when_s, units in sorted(arrivals):
        level = max(0.0, level - (when_s - last_s) * 100) + units
        last_s = when_s
        assert level <= 1_000.001
    assert len(arrivals) > 15
    assert flushes >= 3


def lose_the_next_reply(budgets):
    """Have the server do what it is told next, and nobody hear of it."""
    client = budgets._client
    run = client.evalsha

    def run_once(*arguments):
        run(*arguments)
        client.evalsha = run
        raise redis.ConnectionError("lost")

    client.evalsha = run_once


class TestLostReplies:
    def test_a_reservation_whose_reply_was_lost_is_taken_once(self, opened):
        budgets = opened()
        budgets.status(LANE)
        lose_the_next_reply(budgets)
        with pytest.raises(LimiterUnavailable):
            budgets.reserve(claim(budgets, 1, 10_000), SLOW)

        assert isinstance(budgets.reserve(claim(budgets, 1, 10_000), SLOW), Reserved)

        assert 10_000 == used(budgets)

    def test_a_reservation_nobody_heard_of_is_given_back_by_its_refund(self, opened):
        budgets = opened()
        budgets.status(LANE)
        lose_the_next_reply(budgets)
        with pytest.raises(LimiterUnavailable):
            budgets.reserve(claim(budgets, 1, 10_000), SLOW)

        budgets.refund(LANE, f"{budgets.token}:1")

        assert 0 == used(budgets)

    def test_a_place_in_line_is_kept_and_not_doubled(self, opened, server):
        budgets, other = opened(), opened()
        other.reserve(claim(other, 1, 60_000), SLOW)
        budgets.status(LANE)
        lose_the_next_reply(budgets)
        with pytest.raises(LimiterUnavailable):
            budgets.reserve(claim(budgets, 1, 10_000), SLOW)
        other.reserve(claim(other, 2, 10_000), SLOW)

        again = budgets.reserve(claim(budgets, 1, 10_000), SLOW)

        assert "limit" == again.reason
        assert 2 == server.zcard(key_of(server, b"line"))

    def test_an_end_whose_reply_was_lost_is_told_twice_and_counts_once(self, opened):
        budgets = opened()
        budgets.reserve(claim(budgets, 1, 10_000), SLOW)
        end = (LANE, f"{budgets.token}:1", {"TPM": 10_000}, {"TPM": 10_000}, {}, SLOW)
        lose_the_next_reply(budgets)
        with pytest.raises(LimiterUnavailable):
            budgets.settle(*end)

        budgets.settle(*end)

        assert 10_000 == used(budgets)


class TestClocks:
    @pytest.mark.parametrize("shift_s", [-3_600, 3_600])
    def test_a_shifted_clock_of_a_client_changes_nothing(self, opened, shift_s):
        budgets = opened()
        shifted = opened(FakeClock(budgets._clock.now_ns() + shift_s * NS_PER_S))
        budgets.charge(LANE, {"TPM": 30_000}, SLOW)
        shifted.charge(LANE, {"TPM": 30_000}, SLOW)

        theirs = shifted.reserve(claim(shifted, 1), SLOW)
        ours = budgets.reserve(claim(budgets, 1, priority=1), SLOW)

        assert 60_000 == used(budgets) == used(shifted)
        assert abs(theirs.wait_ns - ours.wait_ns) < 30 * NS_PER_S

    def test_a_memory_tells_durations_and_no_instants(self, opened, redis_server):
        clock = FakeClock(1)
        budgets = opened(clock)
        budgets.charge(LANE, {"TPM": 60_000}, SLOW)

        clock.advance(43_200)
        redis_server.ask("FLUSHALL")

        assert 30_000 == pytest.approx(used(budgets), abs=60)

    def test_a_server_whose_clock_goes_back_drains_nothing_and_stops_nobody(self, opened, redis_server):
        budgets = opened()
        budgets.reserve(claim(budgets, 1, 10_000), SLOW)
        budgets.charge(LANE, {"TPM": 20_000}, SLOW)
        let_pass(redis_server.port, -3_600_000_000)

        assert 30_000 == pytest.approx(used(budgets), abs=60)
        assert isinstance(budgets.reserve(claim(budgets, 2, 29_000), SLOW), Reserved)


class TestDeath:
    def test_what_a_dead_process_reserved_is_charged_and_its_claims_hold_nobody_up(self, opened, server):
        dead, alive = opened(), opened()
        for number in range(3):
            dead.reserve(claim(dead, number, 10_000), SLOW)
        assert isinstance(dead.reserve(claim(dead, 9, 40_000, priority=0), SLOW), Blocked)
        assert "behind" == alive.reserve(claim(alive, 1, 100), SLOW).reason

        pretend_dead(server, dead)

        assert isinstance(alive.reserve(claim(alive, 1, 100), SLOW), Reserved)
        assert 30_100 == used(alive)
        assert 1 == server.hlen(key_of(server, b"leases"))
        assert 1 == alive.status(LANE).processes

    def test_a_settlement_that_comes_after_the_burial_counts_no_more(self, opened, server):
        late, alive = opened(), opened()
        late.reserve(claim(late, 1, 10_000), SLOW)
        pretend_dead(server, late)
        alive.reserve(claim(alive, 1, 1), SLOW)

        late.settle(LANE, f"{late.token}:1", {"TPM": 9_000}, {"TPM": 9_000}, {}, SLOW)

        assert 10_001 == used(alive)

    def test_a_beat_keeps_a_process_alive(self, opened, server):
        clock = FakeClock()
        budgets, other = opened(clock), opened()
        budgets.reserve(claim(budgets, 1, 10_000), SLOW)
        clock.advance(1)
        before = server.zscore(key_of(server, b"processes"), budgets.token)

        budgets.heartbeat()

        assert before < server.zscore(key_of(server, b"processes"), budgets.token)
        assert 1 == other.status(LANE).processes

    def test_a_store_that_closes_leaves_at_once(self, opened):
        closed, alive = opened(), opened()
        closed.reserve(claim(closed, 1, 10_000), SLOW)
        closed.reserve(claim(closed, 2, 60_000, priority=0), SLOW)

        closed.close()

        assert isinstance(alive.reserve(claim(alive, 1, 100), SLOW), Reserved)
        assert 10_100 == used(alive)


class TestNews:
    def test_the_head_of_the_line_is_told_when_budget_is_freed(self, opened):
        holder, waiter = opened(), opened()
        holder.reserve(claim(holder, 1, 60_000), SLOW)
        waiter.reserve(claim(waiter, 1), SLOW)
        assert waiter.has_changed()  # it has only begun to listen
        assert not waiter.has_changed()

        holder.refund(LANE, f"{holder.token}:1")

        assert is_told(waiter)
        assert not waiter.has_changed()

    def test_it_is_told_when_to_come_and_no_sooner(self, opened):
        clock = FakeClock()
        holder, waiter = opened(), opened(clock)
        limits = {"TPM": (60_000, MINUTE)}
        holder.reserve(claim(holder, 1, 60_000), limits)
        waiter.reserve(claim(waiter, 1, 1_000), limits)
        waiter.has_changed()
        waiter.has_changed()
        holder.settle(LANE, f"{holder.token}:1", {"TPM": 60_000}, {"TPM": 60_000}, {}, limits)
        wait_until(lambda: waiter.has_changed() or waiter._lanes[LANE].due_ns is not None)

        looks = []
        for passed_s in (0, 0.5, 0.5):
            clock.advance(passed_s)
            looks.append(waiter.has_changed())

        assert [False, False, True] == looks

    def test_others_are_not_woken(self, opened):
        holder, first, second = opened(), opened(), opened()
        holder.reserve(claim(holder, 1, 60_000), SLOW)
        for each in (first, second):
            each.reserve(claim(each, 1), SLOW)
            each.has_changed()

        holder.refund(LANE, f"{holder.token}:1")

        assert is_told(first)
        woken = []
        wait_until(lambda: woken.append(second.has_changed()) or same_step(first, second))
        assert {False} == {*woken, second.has_changed()}

    def test_to_look_costs_no_command(self, opened, server):
        holder, waiter = opened(), opened()
        holder.reserve(claim(holder, 1, 60_000), SLOW)
        waiter.reserve(claim(waiter, 1), SLOW)
        waiter.has_changed()
        before = server.info("stats")["total_commands_processed"]

        for _ in range(100):
            waiter.has_changed()

        assert 1 >= server.info("stats")["total_commands_processed"] - before

    def test_it_listens_again_after_a_restart(self, opened, redis_server):
        clock = FakeClock()
        holder, waiter = opened(), opened(clock)
        holder.reserve(claim(holder, 1, 60_000), SLOW)
        waiter.reserve(claim(waiter, 1), SLOW)
        waiter.has_changed()
        redis_server.kill()
        assert not any(waiter.has_changed() for _ in range(3))
        with pytest.raises(LimiterUnavailable):
            waiter.heartbeat() or waiter.status(LANE)
        clock.advance(2)
        assert not waiter.has_changed()
        redis_server.start()
        waiter.status(LANE)
        clock.advance(2)

        assert waiter.has_changed()


def same_step(one, other):
    """Return whether both know of the same last step: a message that one had has come to the other."""
    return one._lanes[LANE].step == other._lanes[LANE].step


def is_told(budgets, tries=3_000):
    """Return whether *budgets* hears something; what was published may take a moment to come through the socket."""
    pause = threading.Event()
    return any(budgets.has_changed() or pause.wait(0.01) for _ in range(tries))


class TestAwayOrUnusable:
    def test_a_server_that_is_gone_is_named_with_the_cure(self, opened, redis_server):
        budgets = opened()
        redis_server.kill()
        try:
            with pytest.raises(LimiterUnavailable, match=r"redis://127\.0\.0\.1:\d+/0.*is it running") as caught:
                budgets.reserve(claim(budgets, 1), SLOW)
        finally:
            redis_server.start()

        assert budgets.address == caught.value.address
        assert isinstance(budgets.reserve(claim(budgets, 1), SLOW), Reserved)

    def test_a_server_that_hangs_is_given_up_and_the_step_may_be_repeated(self, opened, redis_server):
        budgets = opened()
        budgets.status(LANE)
        redis_server.freeze()
        try:
            with pytest.raises(LimiterUnavailable):
                budgets.reserve(claim(budgets, 1, 1_000), SLOW)
        finally:
            redis_server.thaw()

        for _ in range(3):
            assert isinstance(budgets.reserve(claim(budgets, 1, 1_000), SLOW), Reserved)
        assert 1_000 == used(budgets)

    def test_a_replica_is_not_taken_for_a_master(self, opened, server):
        budgets = opened()
        server.replicaof("127.0.0.1", 1)
        try:
            with pytest.raises(LimiterUnavailable, match="name the master"):
                budgets.reserve(claim(budgets, 1), SLOW)
        finally:
            server.replicaof("NO", "ONE")

    def test_a_full_server_grants_nothing(self, opened, server):
        budgets = opened()
        server.config_set("maxmemory", 1)
        try:
            with pytest.raises(LimiterUnavailable, match="noeviction"):
                budgets.reserve(claim(budgets, 1), SLOW)
        finally:
            server.config_set("maxmemory", 0)

    def test_no_password_is_told(self):
        budgets = RedisBudgetStore.open("redis://user:hunter2@127.0.0.1:1/0?scope=acme")

        with pytest.raises(LimiterUnavailable) as caught:
            budgets.status(LANE)

        assert "hunter2" not in budgets.address + str(caught.value) + repr(caught.value)
        budgets.close()

    @pytest.mark.parametrize(
        ("url", "said"),
        [
            ("redis://", "a Redis is named as redis://host:6379/0"),
            ("redis:///0", "a Redis is named as redis://host:6379/0"),
            ("http://localhost", "a Redis is named as redis://host:6379/0"),
            ("redis://:hunter2@localhost/cache", "a database of a Redis is a number"),
            ("redis://:hunter2@localhost?scope=a b", "1 to 64 letters"),
            ("redis://:hunter2@localhost?scope={}", "1 to 64 letters"),
            ("redis://:hunter2@localhost?scope=", "1 to 64 letters"),
            ("redis://:hunter2@localhost?scope=" + 65 * "x", "1 to 64 letters"),
            ("redis://:hunter2@localhost:port", "port"),
            ("redis://:hunter2@localhost?socket_timeout=soon", "socket_timeout"),
            ("redis://:hunter2@localhost?no_such_option=1", "no_such_option"),
        ],
    )
    def test_an_address_that_is_none_is_refused_at_once(self, url, said):
        with pytest.raises(ConfigurationError, match="limiter") as caught:
            RedisBudgetStore.open(url)

        assert said in str(caught.value)
        assert "hunter2" not in str(caught.value)

    @pytest.mark.parametrize(
        ("url", "address"),
        [
            ("redis://localhost", "redis://localhost"),
            ("redis://localhost/", "redis://localhost/"),
            ("redis://user:hunter2@cache:7000/3?scope=acme", "redis://cache:7000/3"),
            ("rediss://:hunter2@cache?cluster=yes", "rediss://cache"),
            ("redis://localhost/0?scope=" + 64 * "x", "redis://localhost/0"),
        ],
    )
    def test_an_address_that_is_one_is_shown_without_its_secrets(self, url, address):
        budgets = RedisBudgetStore.open(url)

        assert address == budgets.address
        budgets.close()

    def test_a_wrong_password_is_told_apart_from_a_missing_permission(self, redis_server, server):
        server.acl_setuser("weak", enabled=True, passwords=["+hunter2"], commands=["+ping"], keys=["*"])
        try:
            said = []
            for password in ("hunter2", "hunter3"):
                budgets = RedisBudgetStore.open(f"redis://weak:{password}@127.0.0.1:{redis_server.port}/0")
                with pytest.raises(LimiterUnavailable) as caught:
                    budgets.status(LANE)
                said.append(str(caught.value))
                budgets.close()
        finally:
            server.acl_deluser("weak")

        assert "its user needs +@scripting" in said[0]
        assert "check user and password" in said[1]

    def test_without_redis_py_its_extra_is_named(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "redis", None)

        with pytest.raises(MissingExtraError, match=r"^limiter='redis://.*pip install"):
            RedisBudgetStore.open("redis://localhost")

    def test_a_server_that_is_gone_is_left_without_a_word(self, opened, redis_server):
        budgets = opened()
        budgets.reserve(claim(budgets, 1), SLOW)
        budgets.reserve(claim(budgets, 1, lane="other"), SLOW)
        redis_server.kill()
        try:
            budgets.close()
        finally:
            redis_server.start()

        assert isinstance(budgets.reserve(claim(budgets, 2), SLOW), Reserved)


class TestItsCalls:
    """How often the server is asked for what."""

    @staticmethod
    def operations(budgets):
        """Have *budgets* note what it asks for from now on."""
        noted, run = [], budgets._client.evalsha

        def note(sha, count, *words):
            noted.append(words[count])
            return run(sha, count, *words)

        budgets._client.evalsha = note
        return noted

    def test_to_claim_is_as_good_as_a_beat_for_a_second(self, opened):
        clock = FakeClock()
        budgets, holder = opened(clock), opened()
        holder.reserve(claim(holder, 1, 60_000), SLOW)
        budgets.reserve(claim(budgets, 1), SLOW)
        noted = self.operations(budgets)
        counts = []
        for passed_s in (0, 1 - 1e-9, 1e-9, 0.5, 0.5, 0.5):
            clock.advance(passed_s)
            budgets.heartbeat()
            counts.append(noted.count("heartbeat"))

        assert [0, 0, 1, 1, 2, 2] == counts

    @pytest.mark.parametrize(("tokens", "beats"), [(100, 1), (60_001, 0)])
    def test_only_lanes_with_something_open_are_kept_alive(self, opened, tokens, beats):
        clock = FakeClock()
        budgets = opened(clock)
        budgets.status("looked at")
        budgets.reserve(claim(budgets, 1, tokens), SLOW)
        noted = self.operations(budgets)
        clock.advance(5)

        budgets.heartbeat()

        assert ["heartbeat"] * beats == noted

    def test_ended_ones_keep_nothing_alive(self, opened):
        clock = FakeClock()
        budgets = opened(clock)
        for number in range(3):
            budgets.reserve(claim(budgets, number), SLOW)
        budgets.settle(LANE, f"{budgets.token}:0", {"TPM": 1}, {"TPM": 1}, {}, SLOW)
        budgets.refund(LANE, f"{budgets.token}:1")
        noted = self.operations(budgets)
        clock.advance(5)
        budgets.heartbeat()
        budgets.refund(LANE, f"{budgets.token}:2")
        clock.advance(5)

        budgets.heartbeat()
        budgets.close()

        assert ["heartbeat", "refund"] == noted

    def test_limits_are_sent_once(self, opened):
        budgets = opened()
        budgets.charge(LANE, {"TPM": 1}, SLOW)
        sizes, run = [], budgets._client.evalsha

        def note(sha, count, *words):
            sizes.append(words[count + 5])
            return run(sha, count, *words)

        budgets._client.evalsha = note
        for limits in (SLOW, {**SLOW, "TPM": (5_000, DAY)}, {**SLOW, "TPM": (5_000, DAY)}, SLOW):
            budgets.charge(LANE, {"TPM": 1}, limits)

        assert [0, 1, 0, 1] == sizes


class TestStanding:
    def test_it_tells_sizes_the_pause_and_the_living(self, opened):
        budgets, other = opened(), opened()
        alone = budgets.status(LANE)
        for each in (budgets, other):
            each.reserve(claim(each, 1), {"TPM": (60_000, MINUTE), "RPD": (10, DAY)} | SLOW)
        budgets.hold(LANE, 600 * NS_PER_S, "TPM")
        standing = other.status(LANE)

        assert ([], False, 1, 0) == alone
        assert {"RPD": (10, 86_400.0), "RPM": (600, 86_400.0), "TPM": (60_000, 86_400.0)} == {
            level.dimension: (level.limit, level.period_s) for level in standing.levels
        }
        assert (False, 2) == (standing.refunds_unused, standing.processes)
        assert 590 * NS_PER_S < standing.held_ns <= 600 * NS_PER_S

    def test_whoever_closes_or_fails_lets_go_of_its_connections(self, opened, redis_server):
        closed, failed, holder = opened(), opened(), opened()
        holder.reserve(claim(holder, 1, 60_000), SLOW)
        for budgets in (closed, failed):
            budgets.reserve(claim(budgets, 1), SLOW)  # waits, so it listens, too
        connections = [(budgets._client, budgets._listener) for budgets in (closed, failed)]
        closed.close()
        redis_server.ask("CLIENT KILL TYPE normal")
        with pytest.raises(LimiterUnavailable):
            failed.status(LANE)

        assert [(None, None)] * 2 == [(client.connection, listener.connection) for client, listener in connections]

    def test_renewed_it_is_another_process(self, opened):
        """
        As in a forked child; what the parent has reserved stays the parent's.
        """
        budgets = opened()
        budgets.reserve(claim(budgets, 1, 40_000), SLOW)
        token, parents = budgets.token, budgets._client

        budgets.reset_after_fork()
        blocked = budgets.reserve(claim(budgets, 1, 40_000), SLOW)
        parents.close()

        assert token != budgets.token
        assert ("limit", 40_000) == (blocked.reason, blocked.used)
        assert 2 == budgets.status(LANE).processes

    def test_microseconds_are_rounded_against_us(self):
        assert [0, 1, 1, 2, 0] == [redis_store._us(ns) for ns in (0, 1, 1_000, 1_001, -5)]


@pytest.mark.usefixtures("one_redis_server")
def test_a_cluster_serves_as_well():
    """
    One node that has all slots: a script may touch declared keys of one slot only, as on any.
    """
    server = RedisServer(is_cluster=True)
    try:
        budgets, other = (RedisBudgetStore.open(f"{server.url}?scope=acme&cluster=true") for _ in range(2))
        for lane in ("a", "b", "c"):
            budgets.reserve(claim(budgets, lane, 60_000, lane), SLOW)
            assert isinstance(other.reserve(claim(other, lane, 1, lane), SLOW), Blocked)
            other.has_changed()
            budgets.refund(lane, f"{budgets.token}:{lane}")
            assert is_told(other)
            assert isinstance(other.reserve(claim(other, lane, 1, lane), SLOW), Reserved)
        budgets.close()
        other.close()
    finally:
        server.stop()
