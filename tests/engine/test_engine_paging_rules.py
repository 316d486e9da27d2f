"""The shelf by itself: which rows it knows, which page it wants, and what it counts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from groq_queue.core.request import Request
from groq_queue.core.token_estimate import PromptSize
from groq_queue.engine import paging as shelf_module
from groq_queue.engine.paging import Group, Page, Shelf

GROUP = Group("m", "m", 5, "default")
OTHER = Group("m", "m", 1, "default")


@pytest.fixture(autouse=True)
def little_memory(monkeypatch):
    """At most 6 of a stack in memory; below 3 a page of 4 is fetched."""
    monkeypatch.setattr(shelf_module, "_NEAR_AT_MOST", 6)
    monkeypatch.setattr(shelf_module, "_PAGE", 4)


@pytest.fixture
def shelf():
    return Shelf()


def row(row_id, group=GROUP, **options):
    request = Request("m", "e", b"{}", PromptSize(1, 0), group.priority, group.client, **options)
    request.row_id = row_id
    return request


class Held:
    """A Future, as far as the shelf cares: something that can be dropped."""

    def __init__(self, request):
        self._request = request


def put(shelf, row_id, group=GROUP, is_kept=False, is_new=True):
    request = row(row_id, group)
    future = Held(request)
    shelf.put(request, future, is_kept=is_kept, is_new=is_new)
    return future


def stack(shelf, page, rows, near=(), is_last=False):
    taken, uncounted = shelf.stack_up(page, rows, near, is_last=is_last)
    return [request.row_id for request in taken], uncounted


def test_an_empty_shelf_wants_nothing_and_knows_nothing(shelf):
    assert (True, False, 0, None) == (shelf.is_empty, shelf.is_low, shelf.count, shelf.next_page())
    assert not shelf.wants(row(1))
    assert not shelf.holds(row(1))
    assert not shelf.has_passed(1, row(1))
    assert [] == shelf.held() == shelf.clear(lambda group: True)
    assert None is shelf.future(1)


def test_what_a_file_held_is_fetched_page_by_page_behind_the_last_row(shelf):
    shelf.stock(GROUP, 6)
    assert (False, True, 6) == (shelf.is_empty, shelf.is_low, shelf.count)

    first = shelf.next_page()
    assert Page(GROUP, 0, 4) == first
    assert None is shelf.next_page(), "one page of a group at a time"
    assert ([1, 2, 5, 6], 0) == stack(shelf, first, [row(n) for n in (1, 2, 5, 6)])
    assert 2 == shelf.count

    second = shelf.next_page()
    assert Page(GROUP, 6, 4) == second
    assert ([8, 9], 0) == stack(shelf, second, [row(8), row(9)], is_last=True)
    assert (True, False, 0) == (shelf.is_empty, shelf.is_low, shelf.count)


def test_a_page_is_fetched_when_fewer_than_half_of_what_may_be_near_are_left(shelf):
    shelf.stock(GROUP, 10)
    near = [row(n) for n in range(1, 5)]
    stack(shelf, shelf.next_page(), near)
    for request in near:
        shelf.joined(request)
    assert (True, None) == (shelf.is_low, shelf.next_page())
    assert not shelf.is_low, "it was looked at, and enough are near"

    shelf.left(near[0])
    assert (True, None) == (shelf.is_low, shelf.next_page())
    shelf.left(near[1])
    assert Page(GROUP, 4, 4) == shelf.next_page()


def test_a_new_request_stands_on_the_shelf_if_others_of_its_group_do_or_too_many_are_near(shelf):
    for n in range(1, 6):
        shelf.joined(row(n))
    assert not shelf.wants(row(6))
    shelf.joined(row(6))
    assert shelf.wants(row(7))
    assert not shelf.wants(row(7, OTHER))

    shelf.stock(OTHER, 1)
    assert shelf.wants(row(7, OTHER))


@pytest.mark.parametrize("bound", ["max_wait_ns", "deadline_ns", "not_before_ns"])
def test_whose_time_may_come_stands_in_memory(shelf, bound):
    shelf.stock(GROUP, 1)

    assert not shelf.wants(row(2, **{bound: 1}))
    assert shelf.wants(row(2))


def test_what_may_be_near_is_shared_by_the_stacks_but_never_less_than_four(shelf, monkeypatch):
    monkeypatch.setattr(shelf_module, "_NEAR_IN_ALL", 10)
    for client in range(2):
        for n in range(5):
            shelf.joined(row(n, Group("m", "m", 5, f"{client}")))
    assert shelf.wants(row(9, Group("m", "m", 5, "0"))), "5 of 10 for each of two"

    shelf.joined(row(1, OTHER))
    shelf.joined(row(2, OTHER))
    shelf.joined(row(3, OTHER))
    assert not shelf.wants(row(4, OTHER)), "10 // 3 are fewer than four"
    shelf.joined(row(4, OTHER))
    assert shelf.wants(row(5, OTHER))


def test_a_request_put_here_is_light_and_known_by_its_row(shelf):
    future = put(shelf, 7)

    assert (True, None) == (future._request.is_shelved, future._request.body)
    assert (False, True, 1) == (shelf.is_empty, shelf.is_low, shelf.count)
    assert future is shelf.future(7)
    assert [future] == shelf.held()


def test_one_that_is_not_new_was_counted_before(shelf):
    shelf.stock(GROUP, 3)
    future = put(shelf, 2, is_new=False)

    assert 3 == shelf.count
    assert future is shelf.future(2)


def test_a_future_that_nobody_holds_is_forgotten_unless_it_is_kept(shelf):
    put(shelf, 1)
    put(shelf, 2, is_kept=True)
    third = put(shelf, 3)
    shelf.keep(third, 3)
    shelf.keep(Held(row(1)), 1)  # another than the one that is here
    del third

    assert [None, True, True] == [shelf.future(n) and True for n in (1, 2, 3)]
    assert 3 == shelf.count


def test_a_page_brings_the_future_that_somebody_holds(shelf):
    kept = put(shelf, 1, is_kept=True)
    put(shelf, 2)
    page = shelf.next_page()

    taken, uncounted = shelf.stack_up(page, [row(1), fetched := row(2)], (), is_last=True)

    assert 0 == uncounted
    assert [kept._request, fetched] == taken
    assert (kept, False) == (kept._request.future, kept._request.is_shelved)
    assert (None, []) == (shelf.future(1), shelf.held())
    assert ({}, 0) == (shelf._kept, shelf.count)


def test_rows_that_nobody_counted_and_counts_without_rows_are_told(shelf):
    shelf.stock(GROUP, 1)
    assert ([1, 2, 3], 2) == stack(shelf, shelf.next_page(), [row(1), row(2), row(3)], is_last=True)

    shelf.stock(GROUP, 5)
    assert ([4], -4) == stack(shelf, shelf.next_page(), [row(4)], is_last=True)
    assert (0, True) == (shelf.count, shelf.is_empty)


def test_rows_that_are_in_memory_are_passed_over(shelf):
    shelf.stock(GROUP, 3)

    assert ([1, 3], 0) == stack(shelf, shelf.next_page(), [row(1), row(2), row(3)], near={2})
    assert 1 == shelf.count
    assert 3 == shelf.next_page().after


def test_rows_that_ended_while_a_page_was_on_its_way_are_passed_over(shelf):
    """
    1. A page is asked for. 2. One of its rows is cancelled on the shelf, one ended in memory. 3. The page comes.
    """
    shelf.joined(near := row(2))
    held = put(shelf, 3)
    shelf.stock(GROUP, 1)
    page = shelf.next_page()
    shelf.left(near)
    shelf.take_off(held._request)

    assert ([1, 4], 1) == stack(shelf, page, [row(n) for n in (1, 2, 3, 4)])
    shelf.stock(GROUP, 1)
    again = shelf.next_page()
    assert ([2], 0) == stack(shelf, again, [row(2)]), "with the last page on its way that is forgotten"


def test_what_ended_is_remembered_while_another_page_is_on_its_way(shelf):
    shelf.stock(GROUP, 2)
    shelf.stock(OTHER, 1)
    one, other = shelf.next_page(), shelf.next_page()
    shelf.joined(ended := row(2))
    shelf.left(ended)
    stack(shelf, other, [row(9, OTHER)])

    assert ([1], 0) == stack(shelf, one, [row(1), row(2)])


def test_nothing_is_remembered_while_no_page_is_on_its_way(shelf):
    put(shelf, 1, is_kept=True)
    held = put(shelf, 2)
    shelf.joined(near := row(3))
    shelf.take_off(held._request)
    shelf.left(near)

    assert set() == shelf._gone


def test_one_that_is_taken_off_has_its_future_and_is_counted_off(shelf):
    future = put(shelf, 1, is_kept=True)
    put(shelf, 2, is_kept=True)
    shelf.next_page()

    shelf.take_off(future._request)

    assert (future, False) == (future._request.future, future._request.is_shelved)
    assert (None, 1) == (shelf.future(1), shelf.count)
    assert {2} == set(shelf._kept)
    assert shelf.is_low, "its stack may need a page now"


def test_a_request_that_comes_while_the_last_page_is_on_its_way_is_not_lost(shelf):
    """
    1. A page is asked for. 2. Another row is added behind it. 3. The file said that nothing was behind.
    """
    shelf.stock(GROUP, 1)
    page = shelf.next_page()
    put(shelf, 2, is_kept=True)

    assert ([1], 0) == stack(shelf, page, [row(1)], is_last=True)
    assert (False, 1) == (shelf.is_empty, shelf.count)
    assert Page(GROUP, 1, 4) == shelf.next_page()


def test_a_page_that_could_not_be_read_is_asked_for_again(shelf):
    shelf.stock(GROUP, 3)
    page = shelf.next_page()
    assert not shelf.is_low

    shelf.give_up(page)

    assert shelf.is_low
    assert page == shelf.next_page()


def test_clearing_forgets_the_rows_of_the_groups_that_are_meant(shelf):
    shelf.stock(GROUP, 3)
    shelf.stock(OTHER, 2)
    page = shelf.next_page()
    assert GROUP == page.group
    stack(shelf, page, [row(1)])

    assert [(GROUP, 2, 1)] == shelf.clear(lambda group: group == GROUP)

    assert (2, False) == (shelf.count, shelf.is_empty)
    assert OTHER == shelf.next_page().group
    assert None is shelf.next_page()
    assert [] == shelf.clear(lambda group: group == GROUP)


def test_a_page_of_a_shelf_that_was_cleared_meanwhile_brings_nothing(shelf):
    shelf.stock(GROUP, 3)
    page = shelf.next_page()
    shelf.clear(lambda group: True)

    assert ([], 0) == stack(shelf, page, [row(1), row(2)], is_last=True)
    assert {} == shelf._stacks


def test_rows_of_a_group_that_were_fetched_are_passed_also_when_the_group_is_gone(shelf):
    shelf.stock(GROUP, 1)
    (request,) = shelf.stack_up(shelf.next_page(), [row(5)], (), is_last=True)[0]
    shelf.joined(request)
    assert [True, False] == [shelf.has_passed(n, row(n)) for n in (5, 6)]
    assert not shelf.has_passed(5, row(5, OTHER))

    shelf.left(request)

    assert {} == shelf._stacks
    assert [True, False] == [shelf.has_passed(n, row(n)) for n in (5, 6)]
    assert shelf.has_passed(5, row(5, OTHER)), "whose it was is forgotten with the group"


def test_a_stack_that_was_passed_farther_counts_from_its_own_row(shelf):
    for group, last in ((OTHER, 9), (GROUP, 5)):
        shelf.stock(group, 1)
        (request,) = shelf.stack_up(shelf.next_page(), [row(last, group)], (), is_last=True)[0]
        shelf.joined(request)
        shelf.left(request)

    assert [True, False] == [shelf.has_passed(n, row(n)) for n in (9, 10)], "the farthest, not the latest"


@pytest.mark.parametrize(("row_id", "expected"), [(1, False), (2, False), (3, True), (None, False)])
def test_the_shelf_holds_what_stands_behind_the_last_row_fetched(shelf, row_id, expected):
    shelf.stock(GROUP, 9)
    stack(shelf, shelf.next_page(), [row(1), row(2)])

    assert expected is shelf.holds(row(row_id))
    assert not shelf.holds(row(row_id, OTHER))


def test_a_shelf_whose_last_page_has_come_holds_nothing(shelf):
    shelf.stock(GROUP, 1)
    for request in shelf.stack_up(shelf.next_page(), [row(1)], (), is_last=True)[0]:
        shelf.joined(request)

    assert not shelf.holds(row(9))


def test_a_stack_is_forgotten_with_its_last_request_but_not_while_a_page_of_it_is_on_its_way(shelf):
    shelf.joined(one := row(1))
    shelf.joined(two := row(2))
    shelf.left(one)
    assert {GROUP} == set(shelf._stacks)
    shelf.left(two)
    assert {} == shelf._stacks

    shelf.joined(three := row(3))
    shelf.stock(GROUP, 1)
    page = shelf.next_page()
    shelf.clear(lambda group: True)
    shelf.left(three)
    assert {GROUP} == set(shelf._stacks)
    shelf.give_up(page)


def test_an_empty_last_page_ends_the_stack(shelf):
    shelf.stock(GROUP, 1)

    assert ([], -1) == stack(shelf, shelf.next_page(), [], is_last=True)
    assert ({}, 0, True) == (shelf._stacks, shelf.count, shelf.is_empty)


def test_a_group_is_of_lane_model_level_and_client():
    request = SimpleNamespace(lane="m (flex)", model="m", priority=8, client="acme")

    assert Group("m (flex)", "m", 8, "acme") == shelf_module.group_of(request)
