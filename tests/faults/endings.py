"""D13 to D22: exit, signals, fork."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

from groq_queue import Limits, QueueClosed

from .harness import PATIENCE_S, ROOT, SLACK, Figure, child, ended, queue, seconds, server, wait_until


def d13(full: bool) -> Figure:
    with server() as bad:
        with queue(bad.url("slow-0.05")) as q:
            futures = [q.submit(f"{number}") for number in range(50)]
        done = sum(future.done() and future.exception() is None for future in futures)
    return Figure(done == 50, f"{done} of 50 done when the block was left")


def d14(full: bool) -> Figure:
    raised = ""
    with server() as bad:
        begin = 0.0
        try:
            with queue(bad.url("slow-0.5"), limits=Limits(rpm=30)) as q:
                futures = [q.submit(f"{number}") for number in range(500)]
                wait_until(lambda: q.stats().in_flight > 0)
                begin = time.monotonic()
                raise KeyError("mine")
        except KeyError:
            raised = "KeyError"
        took = time.monotonic() - begin
        cancelled = sum(future.cancelled() for future in futures)
        done = sum(future.done() for future in futures)
        sent = bad.seen("slow-0.5")["sent"]
    ok = raised == "KeyError" and took <= 2.5 * SLACK and done == 500 and cancelled + sent == 500
    return Figure(ok, f"{raised} out after {took:.2f} s (bar 2.5); {sent} in flight awaited, {cancelled} cancelled")


_FORGETFUL = """
q = queue(sys.argv[1], limits=Limits(rpm=30), max_workers=4)
futures = [q.submit(str(number)) for number in range(40)]
"""


def d15(full: bool) -> Figure:
    runs = 100 if full else 2
    bad_exits = fatal = silent = 0
    slowest = 0.0
    with server() as bad:
        for _ in range(runs):
            begin = time.monotonic()
            code, _, err = ended(child(_FORGETFUL, bad.url("slow-0.1")))
            slowest = max(slowest, time.monotonic() - begin)
            bad_exits += code != 0
            fatal += "Fatal" in err or "Traceback" in err
            silent += "not sent" not in err
    ok = (bad_exits, fatal, silent) == (0, 0, 0) and slowest <= 5.6 * SLACK
    return Figure(
        ok,
        f"{runs} runs: rc not 0: {bad_exits}, fatal {fatal}, unsent not told {silent}, "
        f"slowest {slowest:.1f} s (bar 5.1 + start)",
    )


def d16(full: bool) -> Figure:
    slowest = 0.0
    with server() as bad:
        q = queue(bad.url("ok"))
        q.complete("x")
        slowest = max(slowest, seconds(q.shutdown), seconds(q.shutdown))
        for where in ("callback", "worker", "eight"):
            q = queue(bad.url("ok"))
            done = threading.Event()

            def stop(*_: object, q: object = q, done: threading.Event = done) -> None:
                q.shutdown()  # type: ignore[attr-defined]
                done.set()

            begin = time.monotonic()
            if where == "callback":
                q.submit("x", callback=stop)
            elif where == "worker":
                q.submit_call(stop)
            else:
                q.submit("x")
                threads = [threading.Thread(target=stop) for _ in range(8)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(PATIENCE_S)
            if not done.wait(PATIENCE_S):
                return Figure(False, f"shutdown from {where} did not return")
            q.shutdown()
            slowest = max(slowest, time.monotonic() - begin)
    return Figure(
        slowest <= 5 * SLACK, f"twice, from a callback, a worker and 8 threads: slowest {slowest:.2f} s (bar 5 s)"
    )


def d17(full: bool) -> Figure:
    with server() as bad:
        q = queue(bad.url("ok"))
        q.shutdown()
        begin = time.perf_counter()
        try:
            q.submit("x")
            said = "nothing"
        except QueueClosed as error:
            said = type(error).__name__
        took = (time.perf_counter() - begin) * 1_000
        sent = bad.seen("ok")["sent"]
    return Figure(
        said == "QueueClosed" and not sent and took <= 10 * SLACK, f"{said} after {took:.2f} ms (bar 10), sent {sent}"
    )


_STOPPABLE = """
import signal
q = queue(sys.argv[1], journal=sys.argv[2], max_workers=4)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with q:
    print("ready", flush=True)
    for number in range(int(sys.argv[3])):
        q.submit(f"{number}", custom_id=f"{number}")
print("left", flush=True)
"""


def d18(full: bool) -> Figure:
    rounds, count = (20, 200) if full else (3, 60)
    draws = random.Random(18)
    bad_exits = []
    with server() as bad, tempfile.TemporaryDirectory() as directory:
        for round_ in range(rounds):
            path = str(Path(directory) / f"{round_}.db")
            process = child(_STOPPABLE, bad.url("slow-0.01"), path, str(count))
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(draws.uniform(0, 0.4))
            process.send_signal(signal.SIGTERM)
            for code, out, err in (ended(process), ended(child(_STOPPABLE, bad.url("slow-0.01"), path, str(count)))):
                # Python takes its handlers back at its very end: a signal that comes later ends what has ended.
                if code and not (code == -signal.SIGTERM and "left" in out):
                    bad_exits.append(f"{code} {err.strip()[-400:]}")
        lost = 0
        for round_ in range(rounds):
            from groq_queue.journal import Reader

            with Reader.open(Path(directory) / f"{round_}.db") as reader:
                lost += count - reader.counts()["completed"]
    return Figure(
        not lost and not bad_exits,
        f"{rounds} times stopped and restarted: lost {lost} of {rounds * count}, "
        f"bad exits {len(bad_exits)} {' '.join(bad_exits)}",
    )


_FORKING = """
import multiprocessing, warnings
warnings.simplefilter("ignore", DeprecationWarning)
q = queue(sys.argv[1], max_workers=2)
def ask(name):
    return os.getpid(), q.submit(name).result(20).text
def main():
    before = [q.submit(f"parent-{n}") for n in range(20)]
    begin = time.monotonic()
    pool = multiprocessing.get_context("fork").Pool(4)
    answers = pool.map_async(ask, [f"child-{n}" for n in range(40)], chunksize=1).get(30)
    inherited = pool.apply_async(inherit, (0,)).get(30)
    took = time.monotonic() - begin
    pool.terminate()
    after = [f.result(20) for f in before] + [q.submit(f"after-{n}").result(20) for n in range(5)]
    print(json.dumps([len(answers), len({pid for pid, _ in answers}), len(after), inherited, took]))
    q.shutdown()
held = None
def inherit(_):
    return type(held.exception(5)).__name__
held = q.submit("held", not_before=3)
main()
"""


def d19(full: bool) -> Figure:
    with server() as bad:
        code, out, err = ended(child(_FORKING, bad.url("slow-0.02")), 8 * max(SLACK, 4))
        if code:
            return Figure(False, f"exit {code}: {err[-400:]}")
        children, processes, parents, inherited, took = json.loads(out)
        seen = Counter(bad.seen("slow-0.02")["prompts"])
    twice = sum(times > 1 for times in seen.values())
    ok = (children, parents, twice, inherited) == (40, 25, 0, "QueueClosed") and took <= 8 * SLACK
    return Figure(
        ok,
        f"{children} of 40 answered in {processes} children, hung 0; parent {parents} of 25, sent twice {twice}; "
        f"inherited future: {inherited}",
    )


_APP = """
import os, threading
from tests.faults.harness import queue
q = queue(os.environ["URL"], max_workers=2)
q.submit("preloaded").result(20)  # threads, connections and limits before the fork

def app(environ, start_response):
    text = q.submit(environ["PATH_INFO"]).result(20).text.encode()
    start_response("200 OK", [("Content-Length", str(len(text))), ("X-Pid", str(os.getpid()))])
    return [text]
"""


def d20(full: bool) -> Figure:
    if importlib.util.find_spec("gunicorn") is None:
        return Figure(False, "gunicorn is not installed (extra dev)")
    hits = 200 if full else 60
    with server() as bad, tempfile.TemporaryDirectory() as directory, socket.create_server(("127.0.0.1", 0)) as taken:
        (Path(directory) / "preloaded_app.py").write_text(_APP)
        port = taken.getsockname()[1]
        taken.close()
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "--preload", "-w", "4", "-b", f"127.0.0.1:{port}", "--timeout", "30",
             "--no-control-socket", "preloaded_app:app"],
            cwd=directory,
            env={**os.environ, "URL": bad.url("slow-0.02"), "PYTHONPATH": f"{directory}{os.pathsep}{ROOT}"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        try:
            up = wait_until(lambda: _answers(port), 20)
            answered, pids = 0, set()
            failed: list[str] = []
            lock = threading.Lock()

            def hit(first: int) -> None:
                nonlocal answered
                for number in range(first, hits, 8):
                    try:
                        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{number}", timeout=25) as answer:
                            answer.read()
                            with lock:
                                answered += 1
                                pids.add(answer.headers["X-Pid"])
                    except OSError as error:
                        failed.append(str(error))

            threads = [threading.Thread(target=hit, args=(first,)) for first in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            process.terminate()
            code, _, err = ended(process, 20)
    if not up:
        return Figure(False, f"gunicorn did not start: {err[-300:]}")
    ok = answered == hits and code == 0
    return Figure(
        ok,
        f"{answered} of {hits} answered by {len(pids)} workers of a preloaded app, hung {hits - answered}; exit {code}",
    )


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


_RETRYING = """
q = queue(sys.argv[1])
q.submit("x")
wait_until(lambda: q.stats().retried > 0)
"""


def d21(full: bool) -> Figure:
    runs = 20 if full else 2
    with server() as bad:
        url = bad.url("status-503")
        outcomes = [ended(child(_RETRYING, url)) for _ in range(runs)]
    codes = sum(code != 0 for code, _, _ in outcomes)
    started = sum("can't" in err or "Traceback" in err for _, _, err in outcomes)
    told = sum("1 request not sent" in err for _, _, err in outcomes)
    return Figure(
        not codes and not started and told == runs,
        f"{runs} runs: rc not 0: {codes}, thread started at exit {started}, unsent told {told}",
    )


def d22(full: bool) -> Figure:
    interrupts = 200 if full else 25
    draws = random.Random(22)
    caught = begun = 0
    slowest = 0.0
    futures = []
    is_over = threading.Event()
    is_inside = False  # a submit: elsewhere an interrupt is the loop's own affair, and ends nothing

    def interrupted(*_: object) -> None:
        nonlocal is_inside
        if is_inside:
            is_inside = False
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupted)

    def interrupt() -> None:
        for _ in range(interrupts):
            time.sleep(draws.uniform(0.001, 0.02))
            os.kill(os.getpid(), signal.SIGINT)
        is_over.set()

    with server() as bad:
        q = queue(bad.url("ok"), max_pending=500)
        q.complete("warm")
        threading.Thread(target=interrupt, daemon=True).start()
        while not is_over.is_set():
            begun += 1
            begin = time.monotonic()
            try:
                is_inside = True
                future = q.submit(f"n{begun}")
                is_inside = False
            except KeyboardInterrupt:
                caught += 1
            else:
                slowest = max(slowest, time.monotonic() - begin)
                futures.append(future)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        last = seconds(lambda: q.submit("last"))
        unresolved = sum(future.exception(PATIENCE_S) is not None for future in futures)
        drained = q.join(PATIENCE_S)
        seen = bad.seen("ok")
        q.shutdown()
    made = len(futures) + 2
    ok = drained and not unresolved and slowest <= SLACK and last <= SLACK and made <= seen["distinct"] <= made + caught
    return Figure(
        ok and caught > 0 and seen["sent"] == seen["distinct"],
        f"{caught} interrupts in {begun:,} submits: unresolved {unresolved}, drained {drained}, "
        f"slowest submit {slowest:.2f} s "
        f"(bar 1), futures {made:,}, seen {seen['distinct']:,}",
    )
