"""Tables in a terminal and in a notebook."""

from __future__ import annotations

from groq_queue import GroqQueue, Limits
from groq_queue.display import Table, as_html, as_text


def test_numbers_stand_right_and_text_left():
    """
    A column of numbers is read from its right end.
    """
    table = Table("", ("model", "requests"), [("a", 7), ("long name", 12_345)])

    assert ["model      requests", "a                 7", "long name    12,345"] == as_text([table]).split("\n")


def test_a_table_fits_eighty_columns_and_loses_no_word():
    """
    Long text is wrapped, the widest column first; numbers are left whole.
    """
    reason = "tokens per minute, 5,870 of 6,000 used, " * 6
    table = Table("limits", ("lane", "limit", "waits for"), [("a/" + "long-name-" * 9, 6_000, reason)])

    lines = as_text([table]).split("\n")

    assert all(len(line) <= 80 for line in lines)
    words = " ".join(lines).split()
    assert reason.split()[-1] in words
    assert "6,000" in words
    assert 6 == words.count("minute,")


def test_an_empty_table_is_left_out():
    """
    No heads above nothing.
    """
    assert "" == as_text([Table("retries", ("cause", "retries"), [])])
    assert "" == as_html([Table("retries", ("cause", "retries"), [])])


def test_a_name_cannot_move_the_cursor():
    """
    Names of clients come from users.
    """
    shown = as_text([Table("", ("client", "n"), [("evil\x1b[2J\rname", 1)])])

    assert "\x1b" not in shown
    assert "\r" not in shown
    assert "\\x1b[2J" in shown


def test_wide_characters_take_two_columns():
    """
    A Japanese name does not push its neighbours out of line.
    """
    lines = as_text([Table("", ("client", "n"), [("日本", 1), ("abcd", 2)])]).split("\n")

    assert ["日本    1", "abcd    2"] == lines[1:]


def test_html_is_escaped_and_holds_no_script():
    """
    A notebook runs what it is shown.
    """
    shown = as_html([Table("<b>", ("<i>",), [("<script>alert(1)</script>",)])])

    assert "<script" not in shown
    assert "&lt;script&gt;" in shown
    assert "<b>" not in shown
    assert "<i>" not in shown


def test_everything_that_is_seen_of_a_queue_is_a_table():
    """
    In print() within 80 columns, in a notebook as HTML, with a hostile client's name.
    """
    with GroqQueue.simulated(limits=Limits(rpm=30, tpm=6_000)) as queue:
        future = queue.submit("hello", client="<script>", custom_id="<script>")
        pending = queue.explain(future)
        future.result(10)
        shown = [queue.stats(), queue.info(future), queue.report(), queue.estimate(["a", "b"])]

    for each in shown:
        assert str(each).count("\n") > 4
        assert all(len(line) <= 80 for line in str(each).split("\n"))
    for each in [*shown, pending]:
        assert each._repr_html_().startswith("<table>")
        assert "<script>" not in each._repr_html_()
