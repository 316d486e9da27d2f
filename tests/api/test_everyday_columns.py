"""``map_column``: a column in, a column of the same kind out."""

from __future__ import annotations

import datetime
import logging
import subprocess
import sys
from decimal import Decimal

import pytest
from extras import needs

from groq_queue import APIStatusError, Completion, ConfigurationError, GroqQueue, Limits, RequestTooLarge
from groq_queue.api.bulk import BulkMethods


@pytest.fixture
def queue():
    with GroqQueue.simulated(latency=0) as queue:
        yield queue


class Echo(BulkMethods):
    """Answers with the prompt itself, but fails where the prompt says so."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def submit(self, prompt=None, /, **options):
        from concurrent.futures import Future

        self.asked.append(prompt)
        future: Future[Completion] = Future()
        if "fail" in prompt:
            future.set_exception(APIStatusError(f"{prompt} failed", status_code=500, body=None, headers={}))
        else:
            future.set_result(Completion({"text": prompt}))
        return future

    def stats(self):
        raise AssertionError("nobody asked for progress")


def test_a_pandas_series_keeps_index_name_and_length_and_its_missing_values():
    pandas = needs("pandas")
    echo = Echo()
    values = ["tea", None, float("nan"), pandas.NA, pandas.NaT, 7, ""]
    column = pandas.Series(values, index=[3, 3, "a", "b", "c", 1.5, None], name="drink", dtype=object)

    answers = echo.map_column(column, "Buy {}!")

    expected = ["Buy tea!", None, None, None, None, "Buy 7!", "Buy !"]
    assert expected == answers.tolist()
    assert all(answer is None for answer in answers.tolist()[1:5])
    assert column.index.equals(answers.index)
    assert ("drink", object) == (answers.name, answers.dtype)
    assert ["Buy tea!", "Buy 7!", "Buy !"] == echo.asked


@pytest.mark.parametrize("dtype", ["string", "Int64", "float64", "category", "datetime64[ns]"])
def test_pandas_columns_of_every_dtype_are_taken(dtype):
    pandas = needs("pandas")
    values = {"datetime64[ns]": [datetime.datetime(2026, 1, 1), None]}.get(dtype, [1, None])
    column = pandas.Series(values if dtype not in ("string", "category") else ["1", None], dtype=dtype)

    answers = Echo().map_column(column)

    assert [False, True] == answers.isna().tolist()
    assert answers[0].startswith(("1", "2026-01-01"))


def test_a_multi_index_and_an_empty_series_come_back_as_they_were():
    pandas = needs("pandas")
    index = pandas.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["letter", "number"])

    answers = Echo().map_column(pandas.Series(["x", "y"], index=index))
    nothing = Echo().map_column(pandas.Series([], dtype=object, name="none"))

    assert answers.index.equals(index)
    assert (0, "none", object) == (len(nothing), nothing.name, nothing.dtype)


def test_a_polars_series_gives_a_polars_series_of_strings():
    polars = needs("polars")

    answers = Echo().map_column(polars.Series("drink", ["tea", None]), "Buy {}!")
    numbers = Echo().map_column(polars.Series("n", [1.5, float("nan"), None]))
    nothing = Echo().map_column(polars.Series("none", [], dtype=polars.String))

    assert ("drink", polars.String, ["Buy tea!", None]) == (answers.name, answers.dtype, answers.to_list())
    assert ["1.5", None, None] == numbers.to_list()
    assert (0, polars.String) == (len(nothing), nothing.dtype)


def test_a_list_and_a_tuple_give_a_list():
    column = ["tea", None, float("nan"), Decimal("NaN"), 0, [], Decimal("sNaN")]

    for each in (column, tuple(column)):
        assert ["tea", None, None, None, "0", "[]", "sNaN"] == Echo().map_column(each)
    assert [] == Echo().map_column([])


def test_it_works_on_a_real_queue_in_a_frame(queue):
    pandas = needs("pandas")
    frame = pandas.DataFrame({"review": ["good", None, "bad"]}, index=[10, 20, 30])

    frame["mood"] = queue.map_column(frame["review"], "Mood of {}?", priority="high", max_completion_tokens=5)

    assert [False, True, False] == frame["mood"].isna().tolist()
    assert 2 == queue.stats().completed


@pytest.mark.parametrize(
    ("template", "value", "prompt"),
    [
        ('{"a": {}}', "x", '{"a": x}'),
        ("{} or not {}", "be", "be or not be"),
        ("{0} {name} {{}} {}", "x", "{0} {name} {x} x"),
        ("Say {}", "{}", "Say {}"),
        ("100% {}", "%s", "100% %s"),
    ],
)
def test_only_the_two_characters_count_in_a_template(template, value, prompt):
    echo = Echo()

    echo.map_column([value], template)

    assert [prompt] == echo.asked


@pytest.mark.parametrize("template", ["Mood?", "{ }", "{text}", "", None, 7])
def test_a_template_without_a_place_for_the_value_is_refused(template):
    with pytest.raises(ConfigurationError, match=r"put \{\} where the value goes"):
        Echo().map_column(["x"], template)


@pytest.mark.parametrize("column", ["text", {"a": 1}, iter(["x"]), 7, None])
def test_what_is_no_column_is_refused(column):
    with pytest.raises(ConfigurationError, match="column: a "):
        Echo().map_column(column)


def test_a_frame_is_refused_with_the_cure():
    pandas = needs("pandas")

    with pytest.raises(ConfigurationError, match=r"DataFrame; pass one column.*df\['name'\]"):
        Echo().map_column(pandas.DataFrame({"a": ["x"]}))


def test_coerce_makes_failures_missing_and_logs_how_many(caplog):
    with caplog.at_level(logging.WARNING, "groq_queue"):
        answers = Echo().map_column(["a", None, "fail 1", "b", "fail 2"], errors="coerce")

    assert ["a", None, None, "b", None] == answers
    told = "map_column: 2 of 4 failed (errors='raise' would raise); the first, at row 2: APIStatusError (HTTP 500)"
    assert [told] == [r.getMessage() for r in caplog.records]


def test_coerce_takes_what_submit_refuses_too(queue):
    with GroqQueue.simulated(latency=0, limits=Limits(tpm=2_000)) as small:
        answers = small.map_column(["a", "too large " * 5_000], errors="coerce", max_completion_tokens=10)

    assert [True, False] == [answer is not None for answer in answers]


def test_raise_raises_the_first_and_keeps_what_is_done_for_going_on():
    echo = Echo()

    with pytest.raises(APIStatusError, match="fail 1") as raised:
        echo.map_column(["a", "fail 1", "b", "fail 2", None])

    assert ["a", None, "b", None, None] == echo.last_partial == raised.value.partial


def test_done_answers_are_not_asked_again():
    pandas = needs("pandas")
    echo = Echo()
    column = pandas.Series(["a", "b", None, "c"], index=[7, 8, 9, 10])
    with pytest.raises(APIStatusError):
        echo.map_column(column.replace("b", "fail"))
    echo.asked.clear()

    answers = echo.map_column(column, done=echo.last_partial)

    assert ["b"] == echo.asked
    assert ["a", "b", None, "c"] == answers.tolist()
    assert [7, 8, 9, 10] == answers.index.tolist()


def test_what_an_interruption_left_is_forgotten_when_the_next_map_ends_well():
    """
    Or a later cell would go on from the answers to another prompt.
    """
    echo = Echo()
    for go_on in (lambda: echo.map_column(["a", "b"]), lambda: list(echo.map(["a", "b"]))):
        with pytest.raises(APIStatusError):
            echo.map_column(["a", "fail"])
        assert ["a", None] == echo.last_partial

        go_on()

        assert echo.last_partial is None


def test_done_answers_of_another_length_are_refused():
    with pytest.raises(ConfigurationError, match="done: 1 answers for a column of 2 values"):
        Echo().map_column(["a", "b"], done=["a"])


def test_custom_ids_count_the_rows(queue):
    seen = []

    queue.map_column(["a", None, "b"], custom_id="row-{}", callback=lambda future: seen.append(future.custom_id))

    assert ["row-0", "row-2"] == sorted(seen)


@pytest.mark.parametrize(
    ("options", "told"), [({"errors": "return"}, "errors="), ({"priority": "urgent"}, "priority=")]
)
def test_bad_arguments_are_refused(queue, options, told):
    with pytest.raises(ConfigurationError, match=told):
        queue.map_column(["a"], **options)


def test_large_requests_raise_like_anywhere(queue):
    with GroqQueue.simulated(latency=0, limits=Limits(tpm=2_000)) as small, pytest.raises(RequestTooLarge):
        small.map_column(["too large " * 5_000])


def test_a_list_does_not_load_pandas_or_polars():
    script = (
        "import sys; from groq_queue import GroqQueue\n"
        "with GroqQueue.simulated(latency=0) as queue: queue.map_column(['a', None])\n"
        "print([name for name in ('pandas', 'polars', 'numpy') if name in sys.modules])"
    )

    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)

    assert "[]\n" == printed.stdout
