"""The recipes for frameworks, and for code that calls an SDK or requests already, with the real packages."""

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

from .conftest import HERE, Kitchen

Make = Callable[..., Kitchen]


def test_the_flask_view_answers_takes_turns_and_says_when_it_is_too_much(make_kitchen: Make) -> None:
    """
    Nothing is made before the first request; one person's third question at once is refused, another's is not.
    """
    needs("flask")
    ran = make_kitchen().drive(
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


def test_the_django_command_fills_the_field_of_every_row(make_kitchen: Make) -> None:
    """
    In a project of its own; a row that fails is told and left for the next run, which asks for no other.
    """
    needs("django")
    kitchen = make_kitchen(faults=[Fault(status=400, match=lambda call: "three" in call.prompt, times=1)])
    project = kitchen.directory
    commands = project / "shop" / "management" / "commands"
    commands.mkdir(parents=True)
    for package in (project / "shop", commands.parent, commands):
        (package / "__init__.py").touch()
    (commands / "ask_rows.py").write_text((HERE / "django_command.py").read_text())
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
    migrated = kitchen.wait(kitchen.start(*manage, "migrate", "--run-syncdb", "--verbosity", "0"))
    assert 0 == migrated.code, migrated.err
    database = sqlite3.connect(project / "tickets.sqlite3")
    with database:
        texts = [("one", ""), ("two", "known"), ("three", ""), ("four", "")]
        database.executemany("INSERT INTO shop_ticket (text, summary) VALUES (?, ?)", texts)
    command = (*manage, "ask_rows", "shop.Ticket", "text", "summary", "--template", "Sum up: {}")

    first, second = (kitchen.wait(kitchen.start(*command)) for _ in range(2))

    assert (1, "2 of 3 rows filled\n") == (first.code, first.out)
    assert "row 3: " in first.err
    assert "1 rows failed; run it again for these" in first.err
    assert (0, "1 of 1 rows filled\n") == (second.code, second.out)
    summaries = [row[0] for row in database.execute("SELECT summary FROM shop_ticket ORDER BY id")]
    database.close()
    assert "known" == summaries.pop(1)
    assert all(f'"Sum up: {word}"' in text for word, text in zip(("one", "three", "four"), summaries, strict=True))
    assert 4 == kitchen.groq.stats().received


@pytest.mark.parametrize(
    ("recipe", "package", "sent", "retried"),
    [
        ("own_callable.py", "groq", 6, "Name 3 rivers."),
        ("requests_session.py", "requests", 8, "Weather in Kyiv?"),
        ("groq_client.py", "groq", 9, "What is 3 squared?"),
        ("openai_client.py", "openai", 7, "Where is my order?"),
    ],
)
def test_existing_code_waits_its_turn_in_the_queue(
    recipe: str, package: str, sent: int, retried: str, make_kitchen: Make
) -> None:
    """
    Real answers, in the order asked; a 503 is retried by the queue, once, and by nobody else.
    """
    needs(package)
    faults = [Fault(status=503, match=lambda call: call.prompt == retried, times=1)]
    kitchen = make_kitchen(rpm=30, tpm=6_000, faults=faults)

    ran = kitchen.cook(recipe)

    assert sent + 1 == kitchen.groq.stats().received
    assert 0 == kitchen.groq.stats().refused
    assert 2 == kitchen.prompts().count(retried)
    assert sent == ran.out.count("Simulated answer"), ran.out
    assert f'to "{retried}"' in ran.out
    assert "" == ran.err


def test_own_functions_run_on_the_queue_s_threads(make_kitchen: Make) -> None:
    needs("groq")

    assert "a thought about tea" == make_kitchen().cook("own_callable.py").lines[-1]


def test_a_stream_of_the_sdk_comes_in_pieces(make_kitchen: Make) -> None:
    needs("groq")

    assert make_kitchen().cook("groq_client.py").lines[-1].startswith("streamed: Simulated answer")


def test_celery_tasks_share_the_queue_of_their_process(make_kitchen: Make) -> None:
    """
    With task_always_eager, so without a broker.
    """
    needs("celery")
    kitchen = make_kitchen(rpm=120, tpm=60_000, faults=[Fault(status=503, times=1)])
    (kitchen.directory / "celeryconfig.py").write_text("task_always_eager = True\n")

    ran = kitchen.cook("celery_task.py")

    assert 6 == len(ran.lines)
    assert all(f'"Is {number} prime?"' in line for number, line in enumerate(ran.lines))
    assert 7 == kitchen.groq.stats().received
    assert 0 == kitchen.groq.stats().refused


@pytest.mark.slow
def test_celery_tasks_run_in_the_processes_of_a_real_worker(make_kitchen: Make) -> None:
    """
    Two forked processes, and a broker that is a directory.
    """
    needs("celery")
    kitchen = make_kitchen(rpm=120, tpm=60_000)
    kitchen.environment["PYTHONWARNINGS"] = "default"
    kitchen.environment["PYTHONPATH"] += os.pathsep + str(HERE)
    for name in ("box", "results"):
        (kitchen.directory / name).mkdir()
    (kitchen.directory / "celeryconfig.py").write_text(
        dedent(f"""
        broker_url = "filesystem://"
        broker_transport_options = {{"data_folder_in": "box", "data_folder_out": "box", "control_folder": "box"}}
        result_backend = "file://{kitchen.directory / "results"}"
        """)
    )
    worker = (sys.executable, "-m", "celery", "-A", "celery_task", "worker", "--concurrency", "2", "--loglevel", "INFO")
    process = kitchen.start(*worker)

    ran = kitchen.cook("celery_task.py")
    process.send_signal(signal.SIGTERM)
    ended = kitchen.wait(process)

    assert 6 == len(ran.lines)
    assert all(f'"Is {number} prime?"' in line for number, line in enumerate(ran.lines))
    assert 6 == kitchen.groq.stats().received
    assert 0 == ended.code, ended.err
    processes = set(re.findall(r"ForkPoolWorker-(\d+)\] Task answer\[.*succeeded", ended.err))
    assert 1 <= len(processes) <= 2
