"""The rows of the fault table: what is done, what is expected, and who measures it.

A row is measured by a scenario of this folder, in a process of its own, or by a
test of another folder, which is run; or it says why there is nothing to measure yet.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from typing import NamedTuple

from . import endings, field, futures, http, inputs, limits, prefork, resources
from .harness import Figure


class Row(NamedTuple):
    """One line of the table.

    Attributes:
        number: ``"D01"`` and so on.
        what: What is done.
        is_gate: A release needs it.
        scenario: Measures it, given whether at full scale; or None.
        tests: Names of tests that measure it, from the root of the repository.
        missing: Why nothing measures it.
        quick_s: A generous bound of its quick scale; 0 has no quick scale.
        full_s: The same of its full scale.
    """

    number: str
    what: str
    is_gate: bool = False
    scenario: Callable[[bool], Figure] | None = None
    tests: tuple[str, ...] = ()
    missing: str = ""
    quick_s: float = 90
    full_s: float = 300


def _row(
    scenario: Callable[[bool], Figure], what: str, gate: str = "", *, quick_s: float = 90, full_s: float = 300
) -> Row:
    return Row(scenario.__name__.upper(), what, gate == "G", scenario, quick_s=quick_s, full_s=full_s)


def _tested(number: str, what: str, gate: str, *tests: str, full_s: float = 900) -> Row:
    return Row(number, what, gate == "G", tests=tests, full_s=full_s)


def _free_threaded(full: bool) -> Figure:
    failures = sum(not scenario(full).passed for scenario in (futures.d01, futures.d05, futures.d09))
    return Figure(not failures, f"D01, D05 and D09 on a free-threaded build: failures {failures}")


if sysconfig.get_config_var("Py_GIL_DISABLED"):
    _D74 = Row("D74", "D01, D05, D09 on a free-threaded build", scenario=_free_threaded)
else:
    _D74 = Row("D74", "D01, D05, D09 on a free-threaded build", missing="not run: this Python has its lock")

_KILLS = "tests/durability/test_durable_kills.py::test_killed"
_OWNERS = "tests/durability/test_durable_owners.py::test"
_LEDGER = "tests/limiters/test_redis_store.py"
_FLEET = "tests/limiters/test_redis_fleet.py::test"
_CRASH = "tests/journal/test_journal_crash.py::test"
_REPLACED = "tests/journal/test_journal_replaced.py::test"
_INTERRUPTED = "tests/engine/test_engine_interrupted.py::test"

ROWS = (
    _row(futures.d01, "10,000 submits from 32 threads", "G"),
    _row(futures.d02, "500 equal submits, one worker: first in, first out"),
    _row(futures.d03, "100 callbacks that raise"),
    _row(futures.d04, "a callback of 5 s, 2 workers, 20 requests"),
    _row(futures.d05, "cancel a queued and a running one", "G"),
    _row(futures.d06, "result(timeout) too short, then result()"),
    _row(futures.d07, "wait, as_completed, wrap_future, FIRST_EXCEPTION"),
    _row(futures.d08, "200 queues made, used, closed; one dropped"),
    _row(futures.d09, "D01 and D05 at a switch interval of 1 µs"),
    _row(futures.d10, "1,000 payloads that cannot be ordered, 16 threads", "G"),
    _row(futures.d11, "1,200 single submits: no lost wake-up"),
    _row(futures.d12, "100 futures, number 37 fails"),
    _row(endings.d13, "a with block waits for all", "G"),
    _row(endings.d14, "an exception inside with, 500 queued", "G"),
    _row(endings.d15, "the script ends without shutdown", "G", full_s=600),
    _row(endings.d16, "shutdown twice, from a callback, a worker, 8 threads"),
    _row(endings.d17, "submit after shutdown"),
    _row(endings.d18, "SIGTERM at random times, then restart", "G"),
    _row(endings.d19, "a queue at module level, fork Pool(4)", "G"),
    _row(endings.d20, "gunicorn --preload -w 4"),
    Row("D20b", "celery --pool prefork -c 2", scenario=prefork.celery_prefork),
    _row(endings.d21, "exit while a retry is pending"),
    _row(endings.d22, "SIGINT at random instants of a submit loop"),
    _row(limits.d23, "two minutes of backlog at 300 RPM", "G"),
    _row(limits.d24, "a TPM limit, mixed sizes", "G"),
    _row(limits.d25, "a request larger than TPM"),
    _row(limits.d26, "200 low queued, one high"),
    _tested("D27", "high at twice the capacity, one low: bounded wait", "",
            "tests/engine/test_engine_fairness.py::test_with_ageing_a_wait_is_bounded_under_twice_the_capacity_of_high"),
    _row(limits.d28, "client A 1,000, B 10; then five equal ones"),
    _row(limits.d29, "429 with Retry-After, 8 workers", "G"),
    _row(limits.d30, "429 without a wait, 20 clients"),
    _row(limits.d31, "real x-ratelimit headers"),
    _row(limits.d32, "the same as garbage"),
    _row(limits.d33, "max_pending, and one per client"),
    _row(limits.d34, "rpm=1, 50 queued, then close"),
    _row(http.d35, "100,000 requests, 10 % random faults", "G", full_s=900),
    _row(http.d36, "refused; nope.invalid"),
    _row(http.d37, "TLS self-signed, expired, for another host", "G"),
    _row(http.d38, "HTML pages instead of JSON"),
    _row(http.d39, "statuses that are final"),
    _row(http.d40, "statuses that are retried"),
    _row(http.d41, "a server that says nothing, or drips", "G"),
    _row(http.d42, "bodies cut short"),
    _row(http.d43, "100 MB plain; a decompression bomb"),
    _row(http.d44, "a server that closes idle connections"),
    _row(http.d45, "proxies, NO_PROXY, http off loopback"),
    _row(http.d46, "the server restarts under 200 requests"),
    _row(http.d47, "a server that only fails"),
    _row(http.d48, "the key is revoked with 1,000 queued"),
    _row(http.d49, "stream=True"),
    Row("D49b", "redirects 301 to 308; a netrc entry", scenario=http.redirects),
    _row(inputs.d50, "24 bad inputs", "G"),
    _row(inputs.d51, "unknown keyword arguments"),
    _row(inputs.d52, "no key anywhere"),
    _row(inputs.d53, "20 MB payloads"),
    _row(inputs.d54, "1,000 random Unicode texts"),
    _tested("D55", "kill -9 at 200 random moments over one journal", "G",
            f"{_KILLS}_at_random_moments_over_one_journal"),
    _tested("D56", "kill right after submit returned, 200 times", "G", f"{_KILLS}_right_after_submit_has_returned"),
    _tested("D57", "power loss: nothing is acknowledged before its fsync (strace)", "",
            f"{_CRASH}_nothing_is_acknowledged_before_the_disk_has_it"),
    _tested("D58", "integrity after a kill at the Nth write, and while the file is made", "G",
            f"{_KILLS}_at_the_nth_write_of_a_new_file", f"{_KILLS}_while_the_file_is_made"),
    _tested("D59", "restart, ask for what is completed", "", f"{_OWNERS}_a_second_run_of_a_script_sends_nothing"),
    _tested("D60", "newer schemas refused, half-made files new (one schema was released so far)", "",
            "tests/durability/test_durable_refusals.py::test_a_newer_schema_is_refused_as_it_is",
            "tests/journal/test_journal_opener.py::test_a_file_that_a_crash_left_without_schema_is_a_new_journal"),
    _tested("D61", "places where no file can be", "",
            "tests/durability/test_durable_refusals.py::test_a_place_where_no_file_can_be_is_refused",
            "tests/durability/test_durable_refusals.py::test_what_is_read_only_is_refused_as_it_is"),
    _tested("D62", "100,000 requests through one journal", "",
            "tests/durability/test_durable_volume.py::test_a_hundred_thousand_requests_through_one_file"),
    _tested("D63", "another process reads for 60 s", "", f"{_OWNERS}_somebody_who_reads_for_long_slows_no_submit"),
    _tested("D64", "export under load", "", f"{_OWNERS}_an_export_under_load_has_all_that_was_accepted_before"),
    _tested("D65", "a second process opens the same journal", "G", f"{_OWNERS}_a_second_process_is_refused_at_once"),
    _tested("D66", "the owner is stopped and goes on", "", f"{_OWNERS}_a_stopped_owner_stays_the_owner"),
    _row(resources.d67, "a sentinel key through all paths, DEBUG", "G"),
    _row(resources.d68, "repr, str, vars, pickles"),
    _row(resources.d69, "the key and the command line"),
    _row(resources.d70, "newlines, ANSI and 10 kB in names and messages"),
    _row(resources.d71, "soak at 50/s with 5 % faults", quick_s=0, full_s=4_000),
    _row(resources.d72, "100,000 pending"),
    _row(resources.d73, "journal submits, full durability"),
    _D74,
    *(Row(number, what, gate, missing="not built: no gateway yet") for number, what, gate in (
        ("D75", "gateway defaults", True), ("D76", "SSE client leaves", False),
        ("D77", "upstream dies mid-SSE", False), ("D78", "gateway body caps", False),
    )),
    _tested("D79", "processes share one Redis budget, which is flushed, restarted, failed over; replies lost", "",
            "tests/limiters/test_shared_processes.py::test_processes_share_one_budget_without_a_refusal",
            f"{_LEDGER}::TestAForgetfulServer::test_a_flushed_script_is_sent_again",
            f"{_LEDGER}::TestAwayOrUnusable::test_a_replica_is_not_taken_for_a_master",
            f"{_LEDGER}::TestLostReplies::test_a_reservation_whose_reply_was_lost_is_taken_once",
            f"{_LEDGER}::TestLostReplies::test_an_end_whose_reply_was_lost_is_told_twice_and_counts_once",
            f"{_FLEET}_the_limits_are_used_and_never_passed",
            f"{_FLEET}_after_an_accident_it_goes_on_within_five_seconds_and_never_over",
            f"{_FLEET}_after_a_failover_to_a_replica_that_lags_it_goes_on_within_five_seconds_and_never_over"),
    _tested("D80", "Celery workers killed 20 times mid-task, leases shorter than tasks, poison", "",
            "tests/distributed/test_distributed_job_store.py::test_what_a_dead_worker_held_waits_again_in_its_place",
            "tests/distributed/test_fleet_promises.py::test_wake_up_calls_that_come_twice_or_never_change_nothing",
            "tests/distributed/test_fleet_disasters.py::test_a_worker_killed_in_mid_call_twenty_times_loses_nothing",
            "tests/distributed/test_fleet_disasters.py::test_a_call_that_takes_longer_than_the_lease_is_made_once"),
    _row(field.d81, "a kept connection that ends after the server has worked", "G"),
    _row(field.d82, "statuses after which work may be billed, under max_cost", "G"),
    _row(field.d83, "bare 429s, six at one moment", "G"),
    _row(field.d84, "readable answers in odd forms", "G"),
    _row(field.d85, "every kind of 5xx", "G"),
    _row(field.d86, "an outage of 25 s", "G"),
    _row(field.d87, "a 5xx that asks for a pause"),
    _row(field.d88, "logging that raises at every record", "G"),
    _row(field.d89, "the start of a thread refused once, of each kind"),
    _row(field.d90, "callbacks on a second run over a journal"),
    _tested("D91", "a journal deleted, moved or replaced while it is open: what it cannot keep is refused", "",
            f"{_REPLACED}_a_journal_that_is_gone_takes_nothing_more_and_says_so",
            f"{_REPLACED}_a_queue_whose_journal_is_deleted_accepts_nothing_more"),
    _tested("D92", "one journal under two names: refused, both before and while it is open", "",
            f"{_REPLACED}_a_journal_of_two_names_is_refused_under_both",
            f"{_REPLACED}_a_second_name_that_is_given_while_it_is_open_lets_nobody_in"),
    _tested("D93", "the lock file of a journal removed: made again, never two owners that write", "",
            f"{_REPLACED}_a_lock_file_that_is_removed_is_made_again_at_the_next_commit",
            f"{_REPLACED}_an_owner_whose_lock_file_was_removed_gives_way_to_the_next"),
    _tested("D94", "a second Ctrl-C while the block is left by the first: at once, with a server at work for 20 s", "G",
            "tests/test_second_ctrl_c.py::test_a_second_ctrl_c_leaves_the_block_while_an_attempt_is_under_way",
            "tests/test_second_ctrl_c.py::test_a_program_ends_by_the_second_ctrl_c_while_the_server_is_still_at_work"),
    _tested("D95", "a Ctrl-C at each function entry of submit, cancel, cancel_all, shutdown: no Future open", "G",
            f"{_INTERRUPTED}_a_submit_that_is_interrupted_anywhere_leaves_a_queue_that_works",
            f"{_INTERRUPTED}_the_first_submit_of_a_model_that_is_interrupted_leaves_a_queue_that_works",
            f"{_INTERRUPTED}_a_cancel_that_is_interrupted_anywhere_cancels_or_does_not",
            f"{_INTERRUPTED}_a_cancel_all_that_is_interrupted_anywhere_ends_every_future_it_ended",
            f"{_INTERRUPTED}_a_shutdown_that_is_interrupted_anywhere_can_be_called_again"),
    _tested("D96", "a Ctrl-C at each function entry while a request is stored: no later submit fails", "G",
            "tests/journal/test_journal_interrupted.py::test_an_add_that_is_interrupted_anywhere_costs_no_later_one"),
    _tested("D97", "a chain of 1,000 callbacks that each cancel the next: no Future open", "",
            f"{_INTERRUPTED}_a_callback_that_cancels_the_next_request_may_do_so_a_thousand_times",
            f"{_INTERRUPTED}_a_cancel_at_the_end_of_the_stack_loses_nothing"),
    _tested("D98", "no memory for a moment, at any step and while an end is stored: no Future open, no end lost", "",
            f"{_INTERRUPTED}_no_memory_at_any_step_of_a_submit_or_cancel_costs_no_future",
            "tests/test_journal_callbacks.py::"
            "test_an_end_that_cannot_be_stored_for_a_moment_is_told_and_stored_soon"),
)  # fmt: skip
"""In the order in which they are shown."""
