"""Celery's prefork pool, beside D19 and D20: a queue that was made, and used, before the workers were forked."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from .harness import KEY, PATIENCE_S, ROOT, SLACK, Figure, ended, server, wait_until

_APP = """
import json, os
from celery import Celery
from celery.signals import worker_ready, worker_shutdown
from groq_queue import GroqQueue, Limits

app = Celery("preforked", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
app.conf.broker_connection_retry_on_startup = True
q = GroqQueue(api_key=os.environ["KEY"], base_url=os.environ["URL"], model="m", limits=Limits(), max_workers=2)
q.complete("before the fork")  # threads, connections and limits are the parent's
held = [q.submit(f"parent-{n}", not_before=2) for n in range(10)]  # what it has in hand when it forks

@app.task(name="ask")
def ask(name):
    return os.getpid(), q.submit(name).result(20).text

@app.task(name="inherited")
def inherited():
    return type(held[0].exception(5)).__name__

@worker_ready.connect
def go_on(**_):
    answers = [future.result(20).text for future in held] + [q.complete(f"after-{n}").text for n in range(5)]
    with open("parent.json", "w") as file:
        json.dump([os.getpid(), len(answers)], file)

@worker_shutdown.connect
def end(**_):
    q.complete("at the end")
    q.shutdown()
"""


def celery_prefork(full: bool) -> Figure:
    """Children answer, the parent's own requests are sent once, and its queue works until it ends."""
    if not all(map(importlib.util.find_spec, ("celery", "redis"))):
        return Figure(False, "celery or redis is not installed (extra dev)")
    from celery import Celery

    from tests.redis_server import RedisServer, missing

    if missing():
        return Figure(False, str(missing()))
    tasks = 200 if full else 40
    broker = RedisServer()
    try:
        with server() as bad, tempfile.TemporaryDirectory() as directory:
            (Path(directory) / "preforked.py").write_text(_APP)
            worker = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "preforked", "worker", "--pool", "prefork", "-c", "2",
                 "--without-gossip", "--without-mingle", "--loglevel", "ERROR"],
                cwd=directory,
                env={**os.environ, "URL": bad.url("slow-0.02"), "KEY": KEY, "BROKER": broker.url,
                     "PYTHONPATH": f"{directory}{os.pathsep}{ROOT}"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )  # fmt: skip
            app = Celery("asks", broker=broker.url, backend=broker.url)
            asked = [app.send_task("ask", (f"task-{number}",)) for number in range(tasks)]
            answers = [each.get(timeout=PATIENCE_S) for each in asked]
            inherited = app.send_task("inherited").get(timeout=PATIENCE_S)
            told = Path(directory) / "parent.json"
            wait_until(lambda: told.exists() and bool(told.read_text()), 20 * SLACK)
            parent, parents = json.loads(told.read_text()) if told.exists() else (0, 0)
            app.close()
            worker.send_signal(signal.SIGTERM)
            code, _, err = ended(worker, 30 * SLACK)
            seen = Counter(bad.seen("slow-0.02")["prompts"])
    finally:
        broker.stop()
    children = {pid for pid, _ in answers} - {parent}
    twice = sum(times > 1 for times in seen.values())
    ok = (len(answers), len(children), parents, twice, code) == (tasks, 2, 15, 0, 0)
    ok = ok and inherited == "QueueClosed" and seen["at the end"] == 1 and "Traceback" not in err
    return Figure(
        ok,
        f"{len(answers)} of {tasks} answered in {len(children)} children of celery --pool prefork -c 2; parent "
        f"{parents} of 15 and {seen['at the end']} at its end, sent twice {twice}; inherited future: {inherited}; "
        f"exit {code}{'' if ok else f': {err.strip()[-300:]}'}",
    )
