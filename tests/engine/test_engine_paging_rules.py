"""The backlog by itself: which rows it knows, which page it wants, and what it counts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from groq_queue.core.request import Request
from groq_queue.core.token_estimate import PromptSize
from groq_queue.engine import paging
from groq_queue.engine.paging import BacklogPager, Group, Page

GROUP = Group("m", "m", 5, "default")
OTHER = Group("m", "m", 1, "default")


@pytest.fixture(autouse=True)
def little_memory(monkeypatch):
    """At most 6 of a stack in memory; below 3 a page of 4 is fetched."""
    monkeypatch.setattr(paging, "_RESIDENT_AT_MOST", 6)
    monkeypatch.setattr(paging, "_PAGE", 4)


@pytest.fixture
def pager():
    return BacklogPager()


def row(row_id, group=GROUP, **options):
    request = Request("m", "e", b"{}", PromptSize(1, 0), group.priority, group.client, **options)
    request.row_id = row_id
    return request


class Held:
    """A Future, as far as the backlog cares: something that can be dropped."""

    def __init__(self, request):
        self._request = request


def put(pager, row_id, group=GROUP, is_kept=False, is_new=True):
    request = row(row_id, group)
    future = Held(request)
    pager.put(request, future, is_kept=is_kept, is_new=is_new)
    return future


def stack(pager, page, rows, resident=(), is_last=False):
    taken, uncounted = pager.stack_up(page, rows, resident, is_last=is_last)
    return [request.row_id for request in taken], uncounted


def test_an_empty_backlog_wants_nothing_and_knows_nothing(pager):
    assert (True, False, 0, None) == (pager.is_empty, pager.is_low, pager.count, pager.next_page())
    assert not pager.wants(row(1))
    assert not pager.holds(row(1))
    assert not pager.has_passed(1, row(1))
    assert [] == pager.held() == pager.clear(lambda group: True)
    assert None is pager.future(1)


def test_what_a_file_held_is_fetched_page_by_page_behind_the_last_row(pager):
    pager.add_stored(GROUP, 6)
    assert (False, True, 6) == (pager.is_empty, pager.is_low, pager.count)

    first = pager.next_page()
    assert Page(GROUP, 0, 4) == first
    assert None is pager.next_page(), "one page of a group at a time"
    assert ([1, 2, 5, 6], 0) == stack(pager, first, [row(n) for n in (1, 2, 5, 6)])
    assert 2 == pager.count

    second = pager.next_page()
    assert Page(GROUP, 6, 4) == second
    assert ([8, 9], 0) == stack(pager, second, [row(8), row(9)], is_last=True)
    assert (True, False, 0) == (pager.is_empty, pager.is_low, pager.count)


def test_a_page_is_fetched_when_fewer_than_half_of_what_may_be_near_are_left(pager):
    pager.add_stored(GROUP, 10)
    resident = [row(n) for n in range(1, 5)]
    stack(pager, pager.next_page(), resident)
    for request in resident:
        pager.joined(request)
    assert (True, None) == (pager.is_low, pager.next_page())
    assert not pager.is_low, "it was looked at, and enough are near"

    pager.left(resident[0])
    assert (True, None) == (pager.is_low, pager.next_page())
    pager.left(resident[1])
    assert Page(GROUP, 4, 4) == pager.next_page()


def test_a_new_request_stands_in_the_backlog_if_others_of_its_group_do_or_too_many_are_near(pager):
    for n in range(1, 6):
        pager.joined(row(n))
    assert not pager.wants(row(6))
    pager.joined(row(6))
    assert pager.wants(row(7))
    assert not pager.wants(row(7, OTHER))

    pager.add_stored(OTHER, 1)
    assert pager.wants(row(7, OTHER))


@pytest.mark.parametrize("bound", ["max_wait_ns", "deadline_ns", "not_before_ns"])
def test_whose_time_may_come_stands_in_memory(pager, bound):
    pager.add_stored(GROUP, 1)

    assert not pager.wants(row(2, **{bound: 1}))
    assert pager.wants(row(2))


def test_what_may_be_near_is_shared_by_the_stacks_but_never_less_than_four(pager, monkeypatch):
    monkeypatch.setattr(paging, "_RESIDENT_IN_ALL", 10)
    for client in range(2):
        for n in range(5):
            pager.joined(row(n, Group("m", "m", 5, f"{client}")))
    assert pager.wants(row(9, Group("m", "m", 5, "0"))), "5 of 10 for each of two"

    pager.joined(row(1, OTHER))
    pager.joined(row(2, OTHER))
    pager.joined(row(3, OTHER))
    assert not pager.wants(row(4, OTHER)), "10 // 3 are fewer than four"
    pager.joined(row(4, OTHER))
    assert pager.wants(row(5, OTHER))


def test_a_request_put_here_is_light_and_known_by_its_row(pager):
    future = put(pager, 7)

    assert (True, None) == (future._request.is_paged_out, future._request.body)
    assert (False, True, 1) == (pager.is_empty, pager.is_low, pager.count)
    assert future is pager.future(7)
    assert [future] == pager.held()


def test_one_that_is_not_new_was_counted_before(pager):
    pager.add_stored(GROUP, 3)
    future = put(pager, 2, is_new=False)

    assert 3 == pager.count
    assert future is pager.future(2)


def test_a_future_that_nobody_holds_is_forgotten_unless_it_is_kept(pager):
    put(pager, 1)
    put(pager, 2, is_kept=True)
    third = put(pager, 3)
    pager.keep(third, 3)
    pager.keep(Held(row(1)), 1)  # another than the one that is here
    del third

    assert [None, True, True] == [pager.future(n) and True for n in (1, 2, 3)]
    assert 3 == pager.count


def test_a_page_brings_the_future_that_somebody_holds(pager):
    kept = put(pager, 1, is_kept=True)
    put(pager, 2)
    page = pager.next_page()

    taken, uncounted = pager.stack_up(page, [row(1), fetched := row(2)], (), is_last=True)

    assert 0 == uncounted
    assert [kept._request, fetched] == taken
    assert (kept, False) == (kept._request.future, kept._request.is_paged_out)
    assert (None, []) == (pager.future(1), pager.held())
    assert ({}, 0) == (pager._kept, pager.count)


def test_rows_that_nobody_counted_and_counts_without_rows_are_told(pager):
    pager.add_stored(GROUP, 1)
    assert ([1, 2, 3], 2) == stack(pager, pager.next_page(), [row(1), row(2), row(3)], is_last=True)

    pager.add_stored(GROUP, 5)
    assert ([4], -4) == stack(pager, pager.next_page(), [row(4)], is_last=True)
    assert (0, True) == (pager.count, pager.is_empty)


def test_rows_that_are_in_memory_are_passed_over(pager):
    pager.add_stored(GROUP, 3)

    assert ([1, 3], 0) == stack(pager, pager.next_page(), [row(1), row(2), row(3)], resident={2})
    assert 1 == pager.count
    assert 3 == pager.next_page().after


def test_rows_that_ended_while_a_page_was_on_its_way_are_passed_over(pager):
    """
    1. A page is asked for. 2. One of its rows is cancelled on the backlog, one ended in memory. 3. The page comes.
    """
    pager.joined(resident := row(2))
    held = put(pager, 3)
    pager.add_stored(GROUP, 1)
    page = pager.next_page()
    pager.left(resident)
    pager.take_off(held._request)

    assert ([1, 4], 1) == stack(pager, page, [row(n) for n in (1, 2, 3, 4)])
    pager.add_stored(GROUP, 1)
    again = pager.next_page()
    assert ([2], 0) == stack(pager, again, [row(2)]), "with the last page on its way that is forgotten"


def test_what_ended_is_remembered_while_another_page_is_on_its_way(pager):
    pager.add_stored(GROUP, 2)
    pager.add_stored(OTHER, 1)
    one, other = pager.next_page(), pager.next_page()
    pager.joined(ended := row(2))
    pager.left(ended)
    stack(pager, other, [row(9, OTHER)])

    assert ([1], 0) == stack(pager, one, [row(1), row(2)])


def test_nothing_is_remembered_while_no_page_is_on_its_way(pager):
    put(pager, 1, is_kept=True)
    held = put(pager, 2)
    pager.joined(resident := row(3))
    pager.take_off(held._request)
    pager.left(resident)

    assert set() == pager._gone


def test_one_that_is_taken_off_has_its_future_and_is_counted_off(pager):
    future = put(pager, 1, is_kept=True)
    put(pager, 2, is_kept=True)
    pager.next_page()

    pager.take_off(future._request)

    assert (future, False) == (future._request.future, future._request.is_paged_out)
    assert (None, 1) == (pager.future(1), pager.count)
    assert {2} == set(pager._kept)
    assert pager.is_low, "its stack may need a page now"


def test_a_request_that_comes_while_the_last_page_is_on_its_way_is_not_lost(pager):
    """
    1. A page is asked for. 2. Another row is added behind it. 3. The file said that nothing was behind.
    """
    pager.add_stored(GROUP, 1)
    page = pager.next_page()
    put(pager, 2, is_kept=True)

    assert ([1], 0) == stack(pager, page, [row(1)], is_last=True)
    assert (False, 1) == (pager.is_empty, pager.count)
    assert Page(GROUP, 1, 4) == pager.next_page()


def test_a_page_that_could_not_be_read_is_asked_for_again(pager):
    pager.add_stored(GROUP, 3)
    page = pager.next_page()
    assert not pager.is_low

    pager.give_up(page)

    assert pager.is_low
    assert page == pager.next_page()


def test_clearing_forgets_the_rows_of_the_groups_that_are_meant(pager):
    pager.add_stored(GROUP, 3)
    pager.add_stored(OTHER, 2)
    page = pager.next_page()
    assert GROUP == page.group
    stack(pager, page, [row(1)])

    assert [(GROUP, 2, 1)] == pager.clear(lambda group: group == GROUP)

    assert (2, False) == (pager.count, pager.is_empty)
    assert OTHER == pager.next_page().group
    assert None is pager.next_page()
    assert [] == pager.clear(lambda group: group == GROUP)


def test_a_page_of_a_backlog_that_was_cleared_meanwhile_brings_nothing(pager):
    pager.add_stored(GROUP, 3)
    page = pager.next_page()
    pager.clear(lambda group: True)

    assert ([], 0) == stack(pager, page, [row(1), row(2)], is_last=True)
    assert {} == pager._stacks


def test_rows_of_a_group_that_were_fetched_are_passed_also_when_the_group_is_gone(pager):
    pager.add_stored(GROUP, 1)
    (request,) = pager.stack_up(pager.next_page(), [row(5)], (), is_last=True)[0]
    pager.joined(request)
    assert [True, False] == [pager.has_passed(n, row(n)) for n in (5, 6)]
    assert not pager.has_passed(5, row(5, OTHER))

    pager.left(request)

    assert {} == pager._stacks
    assert [True, False] == [pager.has_passed(n, row(n)) for n in (5, 6)]
    assert pager.has_passed(5, row(5, OTHER)), "whose it was is forgotten with the group"


def test_a_stack_that_was_passed_farther_counts_from_its_own_row(pager):
    for group, last in ((OTHER, 9), (GROUP, 5)):
        pager.add_stored(group, 1)
        (request,) = pager.stack_up(pager.next_page(), [row(last, group)], (), is_last=True)[0]
        pager.joined(request)
        pager.left(request)

    assert [True, False] == [pager.has_passed(n, row(n)) for n in (9, 10)], "the farthest, not the latest"


@pytest.mark.parametrize(("row_id", "expected"), [(1, False), (2, False), (3, True), (None, False)])
def test_the_backlog_holds_what_stands_behind_the_last_row_fetched(pager, row_id, expected):
    pager.add_stored(GROUP, 9)
    stack(pager, pager.next_page(), [row(1), row(2)])

    assert expected is pager.holds(row(row_id))
    assert not pager.holds(row(row_id, OTHER))


def test_a_backlog_whose_last_page_has_come_holds_nothing(pager):
    pager.add_stored(GROUP, 1)
    for request in pager.stack_up(pager.next_page(), [row(1)], (), is_last=True)[0]:
        pager.joined(request)

    assert not pager.holds(row(9))


def test_a_stack_is_forgotten_with_its_last_request_but_not_while_a_page_of_it_is_on_its_way(pager):
    pager.joined(one := row(1))
    pager.joined(two := row(2))
    pager.left(one)
    assert {GROUP} == set(pager._stacks)
    pager.left(two)
    assert {} == pager._stacks

    pager.joined(three := row(3))
    pager.add_stored(GROUP, 1)
    page = pager.next_page()
    pager.clear(lambda group: True)
    pager.left(three)
    assert {GROUP} == set(pager._stacks)
    pager.give_up(page)


def test_an_empty_last_page_ends_the_stack(pager):
    pager.add_stored(GROUP, 1)

    assert ([], -1) == stack(pager, pager.next_page(), [], is_last=True)
    assert ({}, 0, True) == (pager._stacks, pager.count, pager.is_empty)


def test_a_group_is_of_lane_model_level_and_client():
    request = SimpleNamespace(lane="m (flex)", model="m", priority=8, client="acme")

    assert Group("m (flex)", "m", 8, "acme") == paging.group_of(request)
