"""The examples for frameworks, and for code that calls an SDK or requests already, with the real packages."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import sys
from collections.abc import Callable
from textwrap import dedent

import pytest
from extras import needs

from groq_queue.testing import Fault

from .conftest import EXAMPLES, Bench

Make = Callable[..., Bench]


def test_the_flask_view_answers_takes_turns_and_says_when_it_is_too_much(make_bench: Make) -> None:
    """
    Nothing is made before the first request; one person's third question at once is refused, another's is not.
    """
    needs("flask")
    ran = make_bench().drive(
        dedent("""
        import json, threading
        from concurrent.futures import ThreadPoolExecutor
        import flask_view

        print(threading.active_count(), flask_view.queue.cache_info().currsize)

        def ask(question, person="ann"):
            reply = flask_view.app.test_client().post("/ask", json={"question": question}, headers={"X-User": person})
            return reply.status_code, reply.get_json()

        print(json.dumps(ask("Why?")))
        client = flask_view.app.test_client()
        flask_view.queue().pause()
        with ThreadPoolExecutor(3) as people:
            waiting = [people.submit(ask, f"Why {number}?") for number in range(2)]
            while client.get("/health").get_json()["pending"] < 2:
                threading.Event().wait(0.01)
            print(json.dumps(ask("Why not?")))
            waiting.append(people.submit(ask, "And I?", "bob"))
            digest = client.post("/digest", json={"text": "A long one."})
            print(digest.status_code, len(digest.get_json()["request_id"]))
            flask_view.queue().resume()
            print([future.result()[0] for future in waiting])
        flask_view.queue().join()
        print(json.dumps(client.get("/health").get_json()))
        """)
    )

    assert "1 0" == ran.lines[0]
    status, answer = json.loads(ran.lines[1])
    assert 200 == status
    assert '"Why?"' in answer["answer"]
    assert 429 == json.loads(ran.lines[2])[0]
    assert "202 32" == ran.lines[3]
    assert "[200, 200, 200]" == ran.lines[4]
    assert {"pending": 0, "completed": 5, "failed": 0} == json.loads(ran.lines[5])


def test_the_django_command_fills_the_field_of_every_row(make_bench: Make) -> None:
    """
    In a project of its own; a row that fails is told and left for the next run, which asks for no other.
    """
    needs("django")
    bench = make_bench(faults=[Fault(status=400, match=lambda call: "three" in call.prompt, times=1)])
    project = bench.directory
    commands = project / "shop" / "management" / "commands"
    commands.mkdir(parents=True)
    for package in (project / "shop", commands.parent, commands):
        (package / "__init__.py").touch()
    (commands / "ask_rows.py").write_text((EXAMPLES / "django_command.py").read_text())
    (project / "shop" / "models.py").write_text(
        dedent("""
        from django.db import models

        class Ticket(models.Model):
            text = models.TextField()
            summary = models.TextField(default="")
        """)
    )
    (project / "manage.py").write_text(
        dedent("""
        import sys
        from django.conf import settings
        from django.core.management import execute_from_command_line

        settings.configure(
            INSTALLED_APPS=["shop"],
            DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "tickets.sqlite3"}},
            DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        )
        execute_from_command_line(sys.argv)
        """)
    )
    manage = (sys.executable, "manage.py")
    migrated = bench.wait(bench.start(*manage, "migrate", "--run-syncdb", "--verbosity", "0"))
    assert 0 == migrated.code, migrated.err
    database = sqlite3.connect(project / "tickets.sqlite3")
    with database:
        texts = [("one", ""), ("two", "known"), ("three", ""), ("four", "")]
        database.executemany("INSERT INTO shop_ticket (text, summary) VALUES (?, ?)", texts)
    command = (*manage, "ask_rows", "shop.Ticket", "text", "summary", "--template", "Sum up: {}")

    first, second = (bench.wait(bench.start(*command)) for _ in range(2))

    assert (1, "2 of 3 rows filled\n") == (first.code, first.out)
    assert "row 3: " in first.err
    assert "1 rows failed; run it again for these" in first.err
    assert (0, "1 of 1 rows filled\n") == (second.code, second.out)
    summaries = [row[0] for row in database.execute("SELECT summary FROM shop_ticket ORDER BY id")]
    database.close()
    assert "known" == summaries.pop(1)
    assert all(f'"Sum up: {word}"' in text for word, text in zip(("one", "three", "four"), summaries, strict=True))
    assert 4 == bench.groq.stats().received


@pytest.mark.parametrize(
    ("example", "package", "sent", "retried"),
    [
        ("own_callable.py", "groq", 6, "Name 3 rivers."),
        ("requests_session.py", "requests", 8, "Weather in Kyiv?"),
        ("groq_client.py", "groq", 9, "What is 3 squared?"),
        ("openai_client.py", "openai", 7, "Where is my order?"),
    ],
)
def test_existing_code_waits_its_turn_in_the_queue(
    example: str, package: str, sent: int, retried: str, make_bench: Make
) -> None:
    """
    Real answers, in the order asked; a 503 is retried by the queue, once, and by nobody else.
    """
    needs(package)
    faults = [Fault(status=503, match=lambda call: call.prompt == retried, times=1)]
    bench = make_bench(rpm=30, tpm=6_000, faults=faults)

    ran = bench.run_example(example)

    assert sent + 1 == bench.groq.stats().received
    assert 0 == bench.groq.stats().refused
    assert 2 == bench.prompts().count(retried)
    assert sent == ran.out.count("Simulated answer"), ran.out
    assert f'to "{retried}"' in ran.out
    assert "" == ran.err


def test_own_functions_run_on_the_queue_s_threads(make_bench: Make) -> None:
    needs("groq")

    assert "a thought about tea" == make_bench().run_example("own_callable.py").lines[-1]


def test_a_stream_of_the_sdk_comes_in_pieces(make_bench: Make) -> None:
    needs("groq")

    assert make_bench().run_example("groq_client.py").lines[-1].startswith("streamed: Simulated answer")


def test_celery_tasks_share_the_queue_of_their_process(make_bench: Make) -> None:
    """
    With task_always_eager, so without a broker.
    """
    needs("celery")
    bench = make_bench(rpm=120, tpm=60_000, faults=[Fault(status=503, times=1)])
    (bench.directory / "celeryconfig.py").write_text("task_always_eager = True\n")

    ran = bench.run_example("celery_task.py")

    assert 6 == len(ran.lines)
    assert all(f'"Is {number} prime?"' in line for number, line in enumerate(ran.lines))
    assert 7 == bench.groq.stats().received
    assert 0 == bench.groq.stats().refused


@pytest.mark.slow
def test_celery_tasks_run_in_the_processes_of_a_real_worker(make_bench: Make) -> None:
    """
    Two forked processes, and a broker that is a directory.
    """
    needs("celery")
    bench = make_bench(rpm=120, tpm=60_000)
    bench.environment["PYTHONWARNINGS"] = "default"
    bench.environment["PYTHONPATH"] += os.pathsep + str(EXAMPLES)
    for name in ("box", "results"):
        (bench.directory / name).mkdir()
    (bench.directory / "celeryconfig.py").write_text(
        dedent(f"""
        broker_url = "filesystem://"
        broker_transport_options = {{"data_folder_in": "box", "data_folder_out": "box", "control_folder": "box"}}
        result_backend = "file://{bench.directory / "results"}"
        """)
    )
    worker = (sys.executable, "-m", "celery", "-A", "celery_task", "worker", "--concurrency", "2", "--loglevel", "INFO")
    process = bench.start(*worker)

    ran = bench.run_example("celery_task.py")
    process.send_signal(signal.SIGTERM)
    ended = bench.wait(process)

    assert 6 == len(ran.lines)
    assert all(f'"Is {number} prime?"' in line for number, line in enumerate(ran.lines))
    assert 6 == bench.groq.stats().received
    assert 0 == ended.code, ended.err
    processes = set(re.findall(r"ForkPoolWorker-(\d+)\] Task answer\[.*succeeded", ended.err))
    assert 1 <= len(processes) <= 2
