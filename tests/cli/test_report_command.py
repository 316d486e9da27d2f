"""run --report, groq-queue report, and the figures of demo."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest

from groq_queue import Report

from .conftest import MODEL, batch


@pytest.fixture
def report_file(command, write, simulate, tmp_path):
    """The report of a run of 30 lines."""
    groq = simulate(rpm=600, tpm=60_000)
    path = write(*(batch(f"q{number}") for number in range(30)))
    written = tmp_path / "report.json"
    ran = command(
        "run", path, "-o", tmp_path / "out.jsonl", "--base-url", groq.base_url,
        "--rpm", 600, "--tpm", 60_000, "--report", written,
    )  # fmt: skip
    assert 0 == ran.code, ran.err
    return written


def test_a_run_leaves_its_report(report_file):
    """
    Complete, one JSON object, with the limits of the run.
    """
    report = Report.from_json(report_file.read_text())

    assert (30, 30, 0) == (report.completed, report.attempts, report.refused)
    assert (MODEL, "RPM") == (report.models[0].name, report.models[0].binding.dimension)


def test_a_report_is_shown_as_tables(command, report_file):
    """
    On stdout, within 80 columns.
    """
    ran = command("report", report_file)

    assert (0, "") == (ran.code, ran.err)
    assert "completed      30" in ran.out
    assert all(len(line) <= 80 for line in ran.out.splitlines())


def test_a_report_is_json_and_a_figure(command, report_file, tmp_path):
    """
    The figure goes to its file, the JSON to stdout.
    """
    ran = command("report", report_file, "--json", "--svg", tmp_path / "run.svg")

    assert 0 == ran.code
    assert json.loads(report_file.read_text()) == json.loads(ran.out)
    ET.parse(tmp_path / "run.svg")


def test_nothing_is_overwritten(command, report_file, write, tmp_path):
    """
    Neither by a figure nor by a report; found before anything is sent.
    """
    figure = tmp_path / "run.svg"
    figure.write_text("mine")

    drawn = command("report", report_file, "--svg", figure)
    ran = command("run", write(batch("a")), "--base-url", "http://127.0.0.1:9", "--report", report_file)

    assert (2, "mine") == (drawn.code, figure.read_text())
    assert 2 == ran.code
    assert "exists and is not empty" in ran.err


@pytest.mark.parametrize("text", ["", "no JSON", '{"custom_id": 1}'])
def test_another_file_is_no_report(command, tmp_path, text):
    """
    Usage, with the name of the file.
    """
    path = tmp_path / "other.json"
    path.write_text(text)

    ran = command("report", path)

    assert (2, "") == (ran.code, ran.out)
    assert "other.json" in ran.err


def test_an_interrupted_run_leaves_its_report_too(spawn, simulate, write, tmp_path):
    """
    Of what was done until then.
    """
    groq = simulate(rpm=2)
    path = write(*(batch(f"q{number}") for number in range(9)))
    written = tmp_path / "report.json"

    process = spawn("run", path, "--base-url", groq.base_url, "--rpm", 2, "--report", written, "--quiet")
    assert process.stdout.readline()
    assert process.stdout.readline()
    process.terminate()

    assert 143 == process.wait(30)
    report = Report.from_json(written.read_text())
    assert (2, 9) == (report.completed, report.submitted)


@pytest.mark.gate
def test_the_demo_draws_what_it_did(demo):
    """
    One figure that compares, one of the terminal: well formed, with the figures it printed.
    """
    lines = [line for line in demo.ran.out.splitlines() if line]
    shown = "\n".join(ET.parse(demo.capture).getroot().itertext())

    assert 0 == demo.ran.code, demo.ran.err
    assert 10 < len(lines)
    assert all(line in shown for line in lines)
    told = "".join(ET.parse(demo.figure).getroot().itertext())
    assert "thread pool that sleeps Retry-After: 100 answered" in told
    assert "groq_queue: 100 answered" in told
    assert "0 refused (429)" in told
