"""Every public method, called as it should be: a type checker finds nothing."""

from __future__ import annotations

from concurrent.futures import Future, as_completed, wait
from functools import partial
from pathlib import Path
from typing import Any

import groq
import openai
import pandas
import polars
import requests

import groq_queue
from groq_queue import Completion, GroqQueue, GroqSimulator, Limits, Priority, RequestFuture
from groq_queue.integrations import requests_adapter, sdk_http_client
from groq_queue.testing import Fault
from groq_queue.wiring.typed_options import CallOptions


def note(future: Future[Completion]) -> None:
    print(future.result().text)


def length(text: str) -> int:
    return len(text)


def made_for(tenant: str = "b") -> GroqQueue:
    return GroqQueue.named(tenant)


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
        GroqQueue.from_config(Path("groq.toml"), api_key=None, limits={"m": Limits(rpm=3)}, engine="celery", timeout=5),
        GroqQueue.simulated(limits=Limits(rpm=600), latency=(0.1, 0.2), seed=1),
        GroqQueue.simulated(model="m", max_retries=0, journal=Path("run.db"), when_full="raise", observer=[print]),
        GroqQueue.named("web", model="m"),
        GroqQueue.named("web", None, model="m", fair_by="tokens"),
        GroqQueue.named("web", GroqQueue, model="m"),
        GroqQueue.named("web", GroqQueue.simulated, latency=0.1, max_workers=2),
        GroqQueue.named("web", GroqQueue.from_config, path="groq.toml", max_workers=2),
        GroqQueue.named("web", partial(GroqQueue, max_workers=2), model="m"),
        GroqQueue.named("web", made_for, tenant="a"),
        GroqQueue.named("web", lambda **settings: GroqQueue(**settings), model="m"),
        GroqQueue.named("web", made_for if Path("groq.toml").exists() else None),
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
        any_call: Any = print
        queue.submit_call(any_call, 1, unknown=2)
        queue.submit_call(print, "abc", sep="", queue_options=None)
        queue.submit_call(partial(length, "abc"))
        queue.submit_call(lambda: 5, queue_options={"model": "m", "callback": print, "priority": 3, "deadline": None})
        answer: Completion = queue.complete("Why?", priority="background", client="a", max_completion_tokens=5)
        texts: list[str] = [each.text for each in queue.map(["a", "b"], errors="raise", priority=1, buffersize=4)]
        both = list(queue.map(["a"], errors="return", progress=True, custom_id="row-{}", temperature=0))
        errors: list[Completion | Exception] = both
        column = queue.map_column(["a"], "What is {}?", errors="coerce", progress=print, priority="low", temperature=0)
        again: list[str | None] = queue.map_column(("a", None), done=column, custom_id="row-{}", max_wait=5, model="m")
        series: pandas.Series[str] = queue.map_column(pandas.Series(["a"]), done=pandas.Series(["b"]), client="a")
        polar: polars.Series = queue.map_column(polars.Series(["a"]), top_p=0.5)
        view = queue.with_options(priority="low", temperature=0, client="a", deadline=5, dedupe=True, model="m")
        view = view.with_options(callback=note, max_completion_tokens=5, priority=None)
        print(view.complete("a").text, view.submit("a", priority=1, top_p=1).request_id, again, series, polar)
        print(view.map_column(["a"], tokens=5), list(view.map(["a"])), view.submit_call(length, text="a").result() + 1)
        with queue.executor() as executor:
            executor.submit(length, "abc")
        print(queue.cancel("1"), queue.get("1").status, queue.cancel_all(client="a", priority="low"))
        print(queue.set_priority(future, "critical"), queue.info(future).state, queue.explain(future).waits_for)
        queue.pause("m")
        queue.resume()
        queue.set_weight("a", 2.5)
        print(queue.stats().pending, queue.report(), queue.estimate(["a"]), queue.join(1.5))
        print(
            queue.estimate(({"model": "m", "input": "a"},), endpoint="embeddings", latency=1, tokens=5, priority="low")
        )
        print(queue.estimate(["a"], model="m", output_share=0.5, max_completion_tokens=10, callback=note, dedupe=True))
        print(groq_queue.estimate(["a"], limits=Limits(rpm=3), prices={"m": (1, 2)}, tokens=5, max_completion_tokens=1))
        print(groq_queue.estimate(iter(["a"]), audio_seconds=1.5, custom_id="a", client=None, latency=2, max_workers=1))
        print(queue.base_url, queue.simulator, future.cancel(), future.running(), future.exception(1))
        print(request_id, custom_id, number.result(), texts, errors)
        print(answer.text, answer.attempts, answer.waited, answer.custom_id, answer.id, answer.model, answer.choices[0])
    with groq_queue.priority("high"), groq_queue.client("a"):
        GroqQueue.attach("0" * 32, broker="redis://localhost")
    queue.shutdown(wait=True, cancel_futures=True)


def asked_through_an_sdk(queue: GroqQueue) -> None:
    with requests.Session() as session:
        session.mount("https://", requests_adapter(queue, priority="low", client="a", idle_timeout=None))
        session.mount("https://", requests_adapter(queue, deadline=5, pool_maxsize=4, pool_block=True))
    client = groq.Groq(http_client=sdk_http_client(queue, groq, priority=Priority.LOW, follow_redirects=True))
    other = openai.OpenAI(http_client=sdk_http_client(queue, openai, max_wait=5))
    queue.submit_call(client.chat.completions.create, model="m", messages=[{"role": "user", "content": "a"}])
    queue.submit_call(other.chat.completions.create, model="m", messages=[{"role": "user", "content": "a"}])
    queue.submit_call(
        other.chat.completions.create,
        model="m",
        messages=[{"role": "user", "content": "a"}],
        queue_options={"priority": "high"},
    )
    queue.submit_call(other.embeddings.create, model="m", input="a")
    queue.submit_call(other.chat.completions.with_raw_response.create, model="m", messages=[])
    queue.submit_call(requests.get, "https://localhost", timeout=5)


def asked_with_what_was_built_before(queue: GroqQueue) -> None:
    message = {"role": "user", "content": "Why?"}
    conversation = [message]
    payload = {"model": "m", "messages": conversation, "temperature": 0}
    either: str | list[dict[str, str]] = "Why?"
    settings: dict[str, Any] = {"temperature": 0}
    options: CallOptions = {"model": "m", "tokens": 50, "priority": "high"}
    queue.submit_call(length, "abc", queue_options=options)
    queue.with_options(priority="low").submit_call(length, "abc", queue_options={**options, "client": "a"})
    queue.submit(conversation, **settings)
    queue.submit(payload)
    queue.submit(either)
    queue.submit(messages=(message,))
    queue.submit(input="a", endpoint="embeddings", model="m")
    queue.submit([queue.complete("a").choices[0].message])
    queue.map([payload])
    queue.map([conversation, conversation])
    queue.map(["a", {"messages": conversation}, conversation])
    queue.map(pandas.Series(["a"]))
    queue.map(polars.Series(["a"]))
    queue.map(line for line in ("a", "b"))
    queue.with_options(**settings)
    queue.map_column(["a"], **settings)
    queue.estimate([payload], **settings)


def simulated() -> None:
    with GroqSimulator(limits=Limits(rpm=3), settlement="kept", headers_at="admission", faults=[Fault(500)]) as one:
        one.add_fault(Fault(reset="after", match=lambda call: True))
    GroqSimulator(limits={"m": Limits(rpm=3)}, rpm=None)
