"""Every public method, called as it should be: a type checker finds nothing."""

from __future__ import annotations

from concurrent.futures import Future, as_completed, wait
from pathlib import Path

import groq_queue
from groq_queue import Completion, GroqQueue, Limits, Priority, RequestFuture


def note(future: Future[Completion]) -> None:
    print(future.result().text)


def length(text: str) -> int:
    return len(text)


def made() -> list[GroqQueue]:
    return [
        GroqQueue(
            api_key="gsk_x",
            base_url="https://api.groq.com/openai/v1",
            model="m",
            limits={"m": Limits(rpm=30, tpm=6_000)},
            max_workers=4,
            when_full="shed",
            fair_by="tokens",
            on_daily_limit="wait",
            limiter="sqlite:///budgets.db",
            on_outage="local_share",
            journal=Path("run.db"),
            durability="normal",
            on_unknown="hold",
            timeout=(5, 60),
            accounts={"m": ("key", None)},
            observer=print,
        ),
        GroqQueue(engine="celery", broker="redis://localhost"),
        GroqQueue.from_config("groq.toml", max_workers=2),
        GroqQueue.simulated(limits=Limits(rpm=600), latency=(0.1, 0.2), seed=1),
        GroqQueue.named("web", model="m"),
    ]


def used(queue: GroqQueue) -> None:
    with queue:
        future: RequestFuture[Completion] = queue.submit(
            "Why?", model="m", priority="high", client="a", custom_id="1", deadline=20, callback=note, temperature=0.5
        )
        queue.submit(messages=[{"role": "user", "content": "Why?"}], priority=Priority.LOW)
        queue.submit({"model": "m", "messages": []}, priority=7, dedupe=True, shrink=True, max_wait=1, not_before=2)
        request_id: str = future.request_id
        custom_id: str | None = future.custom_id
        for done in as_completed([future]):
            print(done.result().text)
        wait([future])
        future.add_done_callback(note)
        number: Future[int] = queue.submit_call(length, "abc", queue_options={"model": "m", "tokens": 5})
        answer: Completion = queue.complete("Why?", priority="background", client="a", max_completion_tokens=5)
        texts: list[str] = [each.text for each in queue.map(["a", "b"], errors="raise", priority=1, buffersize=4)]
        both = list(queue.map(["a"], errors="return", progress=True, custom_id="row-{}", temperature=0))
        errors: list[Completion | Exception] = both
        queue.map_column(["a"], "What is {}?", errors="coerce", progress=print)
        view = queue.with_options(priority="low", temperature=0)
        print(view.complete("a").text, view.submit("a").request_id)
        with queue.executor() as executor:
            executor.submit(length, "abc")
        print(queue.cancel("1"), queue.get("1").status, queue.cancel_all(client="a", priority="low"))
        print(queue.set_priority(future, "critical"), queue.info(future).state, queue.explain(future).waits_for)
        queue.pause("m")
        queue.resume()
        queue.set_weight("a", 2.5)
        print(queue.stats().pending, queue.report(), queue.estimate(["a"]), queue.join(1.5))
        print(queue.base_url, queue.simulator, future.cancel(), future.running(), future.exception(1))
        print(request_id, custom_id, number.result(), texts, errors)
        print(answer.text, answer.attempts, answer.waited, answer.custom_id, answer.id, answer.model, answer.choices[0])
    with groq_queue.priority("high"), groq_queue.client("a"):
        GroqQueue.attach("0" * 32, broker="redis://localhost")
    queue.shutdown(wait=True, cancel_futures=True)
