"""A real notebook: its cells run in a real kernel, in front of a simulator that counts here.

nbclient plays the part of the browser: it runs the cells one after the other, keeps
their outputs, updates a display in place and presses the interrupt button.
"""

from __future__ import annotations

import asyncio
import re
from types import SimpleNamespace

import pytest
from extras import needs

from groq_queue import GroqSimulator, Limits

nbclient = needs("nbclient", is_module=True)
nbformat = needs("nbformat", is_module=True)
needs("ipykernel", is_module=True)

HANG_S = 120  # a cell that takes longer hangs
LOOK_S = 0.02
SCARCE, PLENTY = "llama-3.1-8b-instant", "openai/gpt-oss-20b"
FEW = 5  # requests of the scarce model; the next is admitted twelve minutes later


class Notebook(nbclient.NotebookClient):
    """A notebook whose cells are written as it goes."""

    def __init__(self) -> None:
        super().__init__(nbformat.v4.new_notebook(), kernel_name="python3", timeout=HANG_S, allow_errors=True)
        self.updates = 0

    def process_message(self, message, cell, index):
        self.updates += message["msg_type"] == "update_display_data"
        return super().process_message(message, cell, index)

    def run(self, source):
        """Add a cell, run it, and return what it shows."""
        return asyncio.run(self._run(source, None))

    def run_and_interrupt(self, source, until):
        """The same, pressing the button as soon as ``until(outputs)``."""
        return asyncio.run(self._run(source, until))

    async def _run(self, source, until):
        self.nb.cells.append(nbformat.v4.new_code_cell(source))
        index = len(self.nb.cells) - 1
        cell = self.nb.cells[index]
        running = asyncio.ensure_future(self.async_execute_cell(cell, index))
        if until is not None:
            for _ in range(int(HANG_S / LOOK_S)):
                if running.done() or until(shown(cell)):
                    break
                await asyncio.wait([running], timeout=LOOK_S)
            else:
                raise AssertionError(f"it did not come to that: {cell.outputs}")
            assert not running.done(), f"it ended before the button was pressed: {cell.outputs}"
            await self.km.interrupt_kernel()
        await running
        return shown(cell)


def shown(cell):
    """Return what stands below a cell: its displays and results by kind, its streams, its error."""
    seen = SimpleNamespace(stdout="", stderr="", displays=[], result=None, error=None)
    for output in cell.outputs:
        if output.output_type == "stream":
            setattr(seen, output.name, getattr(seen, output.name) + output.text)
        elif output.output_type == "display_data":
            seen.displays.append(output.data)
        elif output.output_type == "execute_result":
            seen.result = output.data
        else:
            seen.error = output.ename
    return seen


@pytest.fixture
def groq():
    limits = {SCARCE: Limits(rpm=FEW, minute_s=3_600), PLENTY: Limits(rpm=1_000_000, tpm=1_000_000_000)}
    with GroqSimulator(limits=limits) as groq:
        yield groq


@pytest.fixture
def notebook(groq, tmp_path, monkeypatch):
    """A notebook of a user who has set the key and where the API is, and has no settings of Jupyter's own."""
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    monkeypatch.setenv("GROQ_API_KEY", "gsk_test")
    monkeypatch.setenv("GROQ_BASE_URL", groq.base_url)
    notebook = Notebook()
    with notebook.setup_kernel(cwd=str(tmp_path)):
        made = notebook.run(
            "from groq_queue import GroqQueue, Limits\n"
            f"scarce, plenty = {SCARCE!r}, {PLENTY!r}\n"
            f"limits = {{scarce: Limits(rpm={FEW}, minute_s=3_600), plenty: Limits(rpm=1_000_000)}}\n"
            "queue = GroqQueue(limits=limits, model=plenty)"
        )
        assert (None, "") == (made.error, made.stderr)
        yield notebook
        left = notebook.run("queue.cancel_all(); queue.shutdown()")
        assert None is left.error
    nbformat.validate(notebook.nb)


def test_progress_is_one_display_of_html_that_is_updated_in_place(notebook):
    """
    No widgets, nothing on stderr; as plain text where no HTML can be shown.
    """
    cell = notebook.run("answers = list(queue.map(['a'] * 40, progress=True))")

    assert (None, "", "") == (cell.error, cell.stdout, cell.stderr)
    assert 1 == len(cell.displays)
    assert {"text/plain", "text/html"} == set(cell.displays[0])
    assert '<progress value="40" max="40">' in cell.displays[0]["text/html"]
    assert cell.displays[0]["text/plain"].startswith("40/40 done")
    assert 1 <= notebook.updates
    assert "40\n" == notebook.run("print(len(answers))").stdout


def test_what_can_be_looked_at_is_shown_as_html_tables(notebook):
    """
    As the last line of a cell, like a DataFrame.
    """
    notebook.run("answers = list(queue.map(['a', 'b', 'c']))")

    for source, expected in [
        ("queue.stats()", ["submitted", ">3<", "requests per minute"]),
        ("queue.estimate(['a'] * 70)", ["estimate", ">70<", "takes"]),
        ("queue.report()", ["run", "completed", "waits from submit to start"]),
        ("queue.info(queue.submit('a', custom_id='row-7'))", ["row-7", "state"]),
        ("queue.explain(queue.submit('a', custom_id='row-8'))", ["row-8", "waits for"]),
    ]:
        cell = notebook.run(source)

        assert (None, "") == (cell.error, cell.stderr)
        page = cell.result["text/html"]
        assert page.startswith("<table>")
        for text in expected:
            assert text in page


def test_an_interrupted_map_keeps_what_is_done_and_the_next_cell_goes_on(notebook, groq):
    """
    The button is pressed when the display shows that the limit is reached.
    """
    cell = notebook.run_and_interrupt(
        "answers = []\n"
        "for answer in queue.map([f'{n}' for n in range(40)], model=scarce, progress=True):\n"
        "    answers.append(answer)",
        until=lambda cell: any(f"{FEW}/40 done" in display["text/html"] for display in cell.displays),
    )

    assert "KeyboardInterrupt" == cell.error
    assert 1 == len(cell.displays)
    told = re.fullmatch(
        r"groq_queue: interrupted: map handed out 5 answers; 0 more are done \(queue\.last_partial\), 0 on their way, "
        r"35 cancelled unsent; to continue, map the prompts from number 5 on\n",
        cell.stderr,
    )
    assert told, cell.stderr
    cell = notebook.run(
        "answers += queue.map([f'{n}' for n in range(5, 40)], model=plenty)\n"
        "print(len(answers), queue.stats().pending, queue.stats().cancelled)"
    )
    assert (None, "40 0 35\n") == (cell.error, cell.stdout)
    assert 40 == groq.stats().admitted, "each was paid for once, and nothing was sent after the interrupt"


def test_an_interrupted_column_goes_on_from_its_partial_answers(notebook, groq):
    cell = notebook.run_and_interrupt(
        "column = [f'{n}' for n in range(8)]\nanswers = queue.map_column(column, model=scarce, progress=True)",
        until=lambda cell: any(f"{FEW}/8 done" in display["text/html"] for display in cell.displays),
    )

    assert "KeyboardInterrupt" == cell.error
    assert "groq_queue: interrupted: 5 of 8 answers are done, 3 are left; to continue: " in cell.stderr
    assert "map_column(..., done=queue.last_partial)\n" in cell.stderr
    cell = notebook.run(
        "answers = queue.map_column(column, model=plenty, done=queue.last_partial)\nprint(answers.count(None))"
    )
    assert (None, "0\n") == (cell.error, cell.stdout)
    assert 8 == groq.stats().admitted


def test_an_interrupted_result_in_a_with_block_cancels_the_rest(notebook, groq):
    cell = notebook.run_and_interrupt(
        "with GroqQueue(limits=limits, model=scarce) as own:\n"
        "    futures = [own.submit(f'{n}') for n in range(12)]\n"
        "    for number, future in enumerate(futures):\n"
        "        print(number, flush=True)\n"
        "        future.result()",
        until=lambda cell: cell.stdout.endswith(f"{FEW}\n"),
    )

    assert "KeyboardInterrupt" == cell.error
    assert (
        "groq_queue: interrupted: 5 answers done (in the Futures), 7 requests not sent and cancelled; to continue, "
        "submit each again whose Future is cancelled()\n" == cell.stderr
    )
    cell = notebook.run(
        "futures = [queue.submit(f'{n}') if each.cancelled() else each for n, each in enumerate(futures)]\n"
        "print(sum(bool(each.result().text) for each in futures))"
    )
    assert (None, "12\n") == (cell.error, cell.stdout)
    assert 12 == groq.stats().admitted


def test_an_interrupted_result_of_an_open_queue_leaves_every_future_as_it_is(notebook, groq):
    """
    As with any ``concurrent.futures`` pool: whoever waits is stopped, not the work.
    """
    cell = notebook.run_and_interrupt(
        "futures = [queue.submit(f'{n}', model=scarce) for n in range(12)]\n"
        "for number, future in enumerate(futures):\n"
        "    print(number, flush=True)\n"
        "    future.result()",
        until=lambda cell: cell.stdout.endswith(f"{FEW}\n"),
    )

    assert "KeyboardInterrupt" == cell.error
    cell = notebook.run(
        "print(sum(each.done() for each in futures), queue.stats().pending, queue.complete('a').model == plenty)\n"
        "print(queue.cancel_all(), sum(each.cancelled() for each in futures))"
    )
    assert (None, "5 7 True\n7 7\n") == (cell.error, cell.stdout)
    assert 6 == groq.stats().admitted


def test_twenty_runs_of_the_cell_leave_the_threads_of_one(notebook):
    """
    With progress, for which a thread looks at the clock, and with a result shown, which IPython keeps in its caches.
    """
    source = (
        "queue = GroqQueue(limits=limits, model=plenty, max_workers=2)\n"
        "answers = list(queue.map(['a'] * 20, progress=True))\n"
        "queue.stats()"
    )
    settled = (
        "for _ in range(6_000):\n"
        "    if threading.active_count() <= allowed: break\n"
        "    threading.Event().wait(0.01)  # the last queue's workers are about to end\n"
        "print(threading.active_count() - allowed)"
    )
    notebook.run("import threading\nallowed = threading.active_count() + 3  # two workers and a timer")

    for _ in range(20):
        assert None is notebook.run(source).error

    assert int(notebook.run(settled).stdout) <= 0
