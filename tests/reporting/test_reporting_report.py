"""The report of a run: what is counted, that it is bounded, that it survives being written."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET

import pytest
from extras import needs
from waiting import wait_until

from groq_queue import (
    APITimeoutError,
    ConfigurationError,
    GroqQueue,
    GroqSimulator,
    Limits,
    MissingExtraError,
    RateLimitError,
    Report,
)
from groq_queue.clock import FakeClock
from groq_queue.core.price_table import PriceTable
from groq_queue.core.request import Request
from groq_queue.core.token_estimate import PromptSize, TokenCost
from groq_queue.engine.attempt import Disposition, Outcome
from groq_queue.engine.metrics import RunMetrics
from groq_queue.reporting.report import report_of
from groq_queue.simulator import Fault

MODEL = "llama-3.1-8b-instant"


@pytest.fixture(scope="module")
def run():
    """A run at its limits, with faults, on a clock that is moved, and what the server counted."""
    clock = FakeClock()
    limits = {MODEL: Limits(rpm=40, tpm=60_000, minute_s=2), "other": Limits(rpm=600, minute_s=2)}
    faults = [Fault(match="flaky", status=503, times=3), Fault(match="wrong", status=400)]
    with GroqSimulator(limits=limits, clock_ns=clock.now_ns, faults=faults) as groq:
        with GroqQueue(api_key="x", base_url=groq.base_url, limits=limits, max_workers=8, clock=clock) as queue:
            for number in range(80):
                queue.submit(f"{number}", model=MODEL, client=f"client {number % 3}", max_completion_tokens=20)
            queue.submit("flaky", model="other", priority="high", max_completion_tokens=20)
            queue.submit("wrong", model="other", max_completion_tokens=20)
            for number in range(40, 80):  # 40 went at once; of the others one goes every 50 ms
                wait_until(lambda number=number: groq.stats().admitted >= number and not queue.stats().in_flight)
                clock.advance(0.05)

            def has_ended():
                stats = queue.stats()
                if stats.pending and not stats.in_flight:  # what is tried again
                    clock.advance(0.05)
                return not stats.pending and not stats.in_flight

            wait_until(has_ended)
        yield queue.report(), groq.stats(), queue.stats()


def test_the_counts_are_those_of_the_server(run):
    """
    Attempts, answers, tokens.
    """
    report, groq, stats = run

    assert (82, 81, 1) == (report.submitted, report.completed, report.failed)
    assert groq.received == report.attempts == sum(model.attempts for model in report.models)
    assert 81 == sum(model.answered for model in report.models)
    assert (stats.prompt_tokens, stats.completion_tokens) == (report.prompt_tokens, report.completion_tokens)
    assert {"HTTP 503": 3} == report.retries


def test_cost_is_told_by_model_and_unknown_where_it_is(run):
    """
    An unknown model has no price, never a price of zero.
    """
    report = run[0]
    known, unknown = report.models

    assert report.cost == pytest.approx(known.cost)
    assert unknown.cost is None
    assert "other" in str(report)
    assert "not known" in str(report)


def test_the_binding_limit_was_used_nearly_whole(run):
    """
    40 at once and 20 a second; the other limit of the model was not. The queue is closed by now.
    """
    report = run[0]
    use = report.models[0].binding

    assert ("RPM", 40, 80) == (use.dimension, use.limit, use.used)
    assert 0.9 < use.share <= 1.01
    assert use.share == report.utilisation
    assert report.models[0].uses[1].share < 0.2


def test_waits_are_told_by_level_and_client(run):
    """
    Every started request once in each way of looking.
    """
    waits = {(each.group, each.name): each for each in run[0].waits}

    assert 82 == waits["all", "all"].requests
    assert 1 == waits["level", "high"].requests
    assert 81 == waits["level", "normal"].requests
    assert [27, 27, 26] == [waits["client", f"client {number}"].requests for number in range(3)]
    normal = waits["level", "normal"]
    assert normal.p50 <= normal.p90 <= normal.p99 <= normal.longest
    assert 1.5 < normal.p99 < 3
    assert waits["level", "high"].longest < 0.5


def test_the_timeline_adds_up(run):
    """
    Whatever is in the counts is in its bins.
    """
    assert 2 == len(run[0].models)
    for model in run[0].models:
        assert len(model.bins) > 0
        sums = [sum(column) for column in zip(*model.bins, strict=True)]
        assert [model.attempts, model.answered, model.refused] == sums[:3]
        assert model.prompt_tokens + model.completion_tokens == sums[3]


def test_a_report_is_what_it_was_after_json(run):
    """
    Written by run --report, read by report.
    """
    assert run[0] == Report.from_json(run[0].to_json())


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"groq_queue_report": 2}', '{"groq_queue_report": 1, "seconds": "x"}', b"\xff"]
)
def test_another_file_is_no_report(text):
    """
    One typed error, whatever is wrong with it.
    """
    with pytest.raises(ConfigurationError, match="report"):
        Report.from_json(text)


def test_a_bent_report_is_refused():
    """
    Not drawn halfway.
    """
    with GroqQueue.simulated() as queue:
        queue.submit("x").result(10)
        text = queue.report().to_json()

    for bent in (text.replace('"TPM"', '"XYZ"'), text.replace('"bins": [[', '"bins": [["a", ')):
        assert bent != text
        with pytest.raises(ConfigurationError):
            Report.from_json(bent)


def test_a_report_may_be_asked_for_before_anything_happened():
    """
    All zeros, and still a table and a figure.
    """
    with GroqQueue.simulated() as queue:
        report = queue.report()

    assert (0, 0.0, None) == (report.submitted, report.seconds, report.utilisation)
    assert "submitted" in str(report)
    ET.fromstring(report.to_svg())


def request(client="c", model="m"):
    made = Request(model=model, endpoint="chat/completions", body=b"", size=PromptSize(1, 1), priority=5, client=client)
    made.submitted_ns = 0
    return made


def test_memory_is_bounded_however_long_it_runs_and_whoever_sends():
    """
    A hundred clients by name, all others together; 240 bins.
    """
    record = RunMetrics()
    for number in range(5_000):
        one = request(client=f"client {number}")
        record.started(one, number * 10**9)
        record.ended(one, TokenCost(1, 2), number * 10**9, is_answer=True, is_refused=False)

    facts = record.facts(5_000 * 10**9, 0)

    assert 101 == len(facts.waits_by_client)
    assert 4_900 == facts.waits_by_client[None].count
    assert len(facts.lanes[0].bins) <= 240
    assert [5_000, 5_000, 0, 15_000] == [sum(column) for column in zip(*facts.lanes[0].bins, strict=True)]
    assert 32_000_000_000 == facts.width_ns
    assert {32} == {bins[0] for bins in facts.lanes[0].bins[:-1]}  # one a second, whenever it was counted


def test_lanes_share_one_timeline():
    """
    Bins of all models are equally wide, also of one that began late or went quiet.
    """
    record = RunMetrics()
    record.started(request(model="early"), 0)
    record.started(request(model="late"), 500 * 10**9)

    early, late = record.facts(0, 0).lanes

    assert [1, 0, 0, 0] == early.bins[0]
    assert 500 * 10**9 // record.facts(0, 0).width_ns == len(late.bins) - 1


def test_retries_are_counted_by_cause(stage):
    """
    A refusal by a limit is another cause than a timeout.
    """
    limited = stage(Limits(rpm=100))
    outcomes = [
        Outcome(Disposition.RETRY, error=APITimeoutError("slow"), wait_ns=0),
        Outcome(Disposition.RATE_LIMITED, error=RateLimitError("no", status_code=429), wait_ns=0),
        Outcome(Disposition.RETRY, error=APITimeoutError("slow"), wait_ns=0),
    ]
    limited.script = lambda _: outcomes.pop() if outcomes else None

    limited.submit("one").result(10)
    stats, facts = limited.engine.facts()

    assert {"timeout": 2, "429 refused by a limit": 1} == facts.retries
    assert (3, 1) == (stats.retried, stats.refused)
    assert 1 == report_of(stats, facts, PriceTable()).models[0].refused


def test_a_figure_is_well_formed_and_needs_nothing(run):
    """
    With an explicit background, small, and without scripts.
    """
    svg = run[0].to_svg()

    root = ET.fromstring(svg)
    assert "{http://www.w3.org/2000/svg}svg" == root.tag
    assert len(svg) < 40_000
    assert 'fill="#ffffff"' in svg
    assert "<script" not in svg
    assert f"{MODEL}: 40 RPM" in svg


def test_the_plot_shows_answers_refusals_and_use(run):
    """
    With matplotlib, and without leaving a figure behind in pyplot.
    """
    needs("matplotlib")

    figure = run[0].plot()

    sent, used = figure.axes
    assert run[0].completed == sum(patch.get_height() for patch in sent.patches if patch.get_height() > 0)
    assert 2 == len(used.lines)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert "matplotlib.pyplot" not in sys.modules


def test_a_missing_matplotlib_names_the_extra(run, monkeypatch):
    """
    And the way that needs none.
    """
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

    with pytest.raises(MissingExtraError, match=r"'plots'.*pip install 'matplotlib>=.*to_svg"):
        run[0].plot()
