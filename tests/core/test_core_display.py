"""Tables as they are seen: worked examples, to the last space."""

from __future__ import annotations

import pytest

from groq_queue.display import Cell, Table, as_html, as_text, duration_text, shown


def lines_of(table: Table, width: int = 80) -> list[str]:
    return as_text([table], width).split("\n")


# -- cells


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (None, ""),
        ("", ""),
        ("1200", "1200"),
        (0, "0"),
        (-1_200, "-1,200"),
        (999, "999"),
        (12_345_678, "12,345,678"),
        (0.0, "0"),
        (0.12345, "0.123"),
        (99.94, "99.9"),
        (-99.94, "-99.9"),
        (100.0, "100"),
        (100.7, "101"),
        (-12_345.6, "-12,346"),
    ],
)
def test_a_number_has_its_thousands_separated_and_three_figures_at_least(cell: Cell, text: str) -> None:
    assert text == shown(cell)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0, "0 s"),
        (0.000_000_05, "0 s"),
        (0.005_94, "5.94 ms"),
        (0.099, "99 ms"),
        (0.25, "0.25 s"),
        (119.4, "119 s"),
        (120, "2 min"),
        (149, "2 min"),
        (151, "3 min"),
        (119 * 60, "119 min"),
        (120 * 60, "2 h"),
        (9_000, "2 h 30 min"),
        (57_600, "16 h"),
        (47 * 3_600 + 59 * 60, "47 h 59 min"),
        (48 * 3_600, "2 d"),
        (200_000, "2 d 8 h"),
        (1_000 * 86_400 + 23 * 3_600, "1,000 d 23 h"),
    ],
)
def test_a_duration_is_told_in_the_two_units_that_matter(seconds: float | None, text: str) -> None:
    assert text == duration_text(seconds)


# -- text


def test_a_title_indents_what_is_below_and_none_does_not() -> None:
    rows = [("m", 1_200), ("other", None)]

    assert ["sent", "  model  requests", "  m         1,200", "  other"] == lines_of(
        Table("sent", ("model", "requests"), rows)
    )
    assert ["model  requests", "m         1,200", "other"] == lines_of(Table("", ("model", "requests"), rows))


def test_a_table_without_a_head_has_rows_only() -> None:
    assert ["sent", "  m       1", "  other  20"] == lines_of(Table("sent", ("", ""), [("m", 1), ("other", 20)]))


def test_one_name_makes_a_head() -> None:
    assert ["   n", "m  1"] == lines_of(Table("", ("", "n"), [("m", 1)]))


def test_a_column_with_one_text_stands_left() -> None:
    """
    Numbers alone, and nothing, stand right.
    """
    table = Table("", ("a", "b", "c"), [(1, 1, 1.5), ("x", 22, None), (333, 4_444, 20)])

    assert ["a        b    c", "1        1  1.5", "x       22", "333  4,444   20"] == lines_of(table)


def test_tables_are_separated_by_an_empty_line_and_empty_ones_left_out() -> None:
    one, none, two = Table("one", ("n",), [(1,)]), Table("none", ("n",), []), Table("two", ("n",), [(2,)])

    assert "one\n  n\n  1\n\ntwo\n  n\n  2" == as_text([one, none, two])


def test_a_table_that_fits_exactly_is_not_wrapped_and_one_column_less_wraps_it() -> None:
    table = Table("", ("name", "n"), [("aaaa bbbb cccc dddd", 7)])

    assert ["name                 n", "aaaa bbbb cccc dddd  7"] == lines_of(table, 22)
    assert ["name                n", "aaaa bbbb cccc      7", "dddd"] == lines_of(table, 21)


def test_a_title_takes_two_columns_of_the_width() -> None:
    table = Table("t", ("name", "n"), [("aaaa bbbb cccc dddd", 7)])

    assert ["t", "  name                 n", "  aaaa bbbb cccc dddd  7"] == lines_of(table, 24)
    assert ["t", "  name                n", "  aaaa bbbb cccc      7", "  dddd"] == lines_of(table, 23)


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (49, (25, 19)),
        (48, (24, 19)),
        (43, (19, 19)),
        (42, (18, 19)),
        (41, (18, 18)),
        (31, (13, 13)),
        (30, (12, 13)),
        (29, (12, 12)),
        (10, (12, 12)),
    ],
)
def test_the_widest_text_is_narrowed_first_and_then_both_alike_down_to_twelve_columns(
    width: int, columns: tuple[int, int]
) -> None:
    table = Table("", ("a", "b", "c"), [("aaaa " * 5, "bbbb bbbb bbbb bbbb", "c")])

    head = lines_of(table, width)[0]

    assert columns == (head.index("b") - 2, head.index("c") - head.index("b") - 2)


def test_numbers_are_not_narrowed_at_all() -> None:
    table = Table("", ("name", "n"), [("aaaa bbbb cccc dddd", 123_456_789)])

    assert ["name                    n", "aaaa bbbb     123,456,789", "cccc dddd"] == lines_of(table, 10)
    assert ["123,456,789  123,456,789"] == lines_of(Table("", ("", ""), [(123_456_789,) * 2]), 10)


def test_a_word_longer_than_its_column_is_cut_and_not_lost() -> None:
    assert ["name", "aaaaaaaaaaaa", "aaaaaaaa"] == lines_of(Table("", ("name",), [("a" * 20,)]), 12)


def test_wide_characters_take_two_columns_and_combining_ones_none() -> None:
    """
    Five columns each: two wide ones and a narrow one, or five letters, of which one has its accent apart.
    """
    rows = [("\u65e5\u672cx", 1), ("cafe\u0301s", 2), ("abcde", 3), ("\uff21\uff22c", 4)]

    assert ["\u65e5\u672cx  1", "cafe\u0301s  2", "abcde  3", "\uff21\uff22c  4"] == lines_of(Table("", ("", ""), rows))


def test_wide_text_is_wrapped_before_it_leaves_its_column() -> None:
    lines = lines_of(Table("", ("n",), [("\u65e5\u672c\u8a9e" * 6,)]), 12)

    assert ["n", "\u65e5\u672c\u8a9e\u65e5\u672c\u8a9e", *["\u65e5\u672c\u8a9e\u65e5\u672c\u8a9e"] * 2] == lines


def test_what_cannot_be_printed_is_written_out() -> None:
    assert ["a\\tb\\x00\\u202e\u00e9"] == lines_of(Table("", ("",), [("a\tb\x00\u202e\u00e9",)]))


@pytest.mark.parametrize("rows", [[(1, 2), (3,)], [(1,)], [(1, 2, 3)]])
def test_a_row_with_a_cell_too_many_or_too_few_is_an_error_and_not_cut(rows: list[tuple[Cell, ...]]) -> None:
    with pytest.raises(ValueError, match="argument"):
        as_text([Table("", ("a", "b"), rows)])


# -- HTML


def test_html_has_a_caption_a_head_and_numbers_on_the_right() -> None:
    table = Table("sent", ("model", "n"), [("m", 1_200), ("", None)])

    assert (
        "<table><caption>sent</caption><thead><tr><th>model</th><th>n</th></tr></thead><tbody>"
        '<tr><td style="text-align:left">m</td><td style="text-align:right">1,200</td></tr>'
        '<tr><td style="text-align:left"></td><td style="text-align:right"></td></tr></tbody></table>'
    ) == as_html([table])


def test_html_leaves_out_a_title_a_head_and_tables_that_are_empty() -> None:
    tables = [Table("", ("",), [(1,)]), Table("none", ("n",), []), Table("", ("",), [(2,)])]

    assert "".join(
        f'<table><tbody><tr><td style="text-align:right">{n}</td></tr></tbody></table>' for n in (1, 2)
    ) == as_html(tables)


def test_everything_in_html_is_escaped() -> None:
    table = Table("<b>", ("<i>",), [("<script>\x1b&\"'",)])

    assert (
        "<table><caption>&lt;b&gt;</caption><thead><tr><th>&lt;i&gt;</th></tr></thead><tbody><tr>"
        '<td style="text-align:left">&lt;script&gt;\\x1b&amp;&quot;&#x27;</td></tr></tbody></table>'
    ) == as_html([table])
