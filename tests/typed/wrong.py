"""Every public method with an argument that is wrong: a type checker finds each line that ends in "# wrong"."""

from __future__ import annotations

import pandas

import groq_queue
from groq_queue import Completion, GroqQueue, GroqSimulator, Limits, Record
from groq_queue.integrations import requests_adapter, sdk_http_client
from groq_queue.testing import Fault


def made() -> None:
    GroqQueue("gsk_x")  # wrong
    GroqQueue(api_keys="gsk_x")  # wrong
    GroqQueue(engine="kafka")  # wrong
    GroqQueue(max_workers="8")  # wrong
    GroqQueue(when_full="drop")  # wrong
    GroqQueue(fair_by="time")  # wrong
    GroqQueue(on_outage="ignore")  # wrong
    GroqQueue(on_daily_limit="stop")  # wrong
    GroqQueue(durability="none")  # wrong
    GroqQueue(on_unknown="drop")  # wrong
    GroqQueue(timeout="5")  # wrong
    GroqQueue(limits={"rpm": 30})  # wrong
    GroqQueue(observer="print")  # wrong
    Limits(rpm="30")  # wrong
    Limits(rps_=3)  # wrong
    GroqQueue.from_config(5)  # wrong
    GroqQueue.from_config("groq.toml", max_workers="8")  # wrong
    GroqQueue.from_config("groq.toml", when_full="drop")  # wrong
    GroqQueue.from_config("groq.toml", max_worker=8)  # wrong
    GroqQueue.simulated(latency="fast")  # wrong
    GroqQueue.simulated(limits={"rpm": 30})  # wrong
    GroqQueue.simulated(max_workers="8")  # wrong
    GroqQueue.simulated(durability="none")  # wrong
    GroqQueue.simulated(max_retry=1)  # wrong
    GroqQueue.simulated(api_key="gsk_x")  # wrong
    GroqQueue.simulated(engine="celery")  # wrong
    GroqQueue.named(5)  # wrong
    GroqQueue.named("web", 5)  # wrong
    GroqQueue.named("web", print)  # wrong
    GroqQueue.named("web", max_workers="8")  # wrong
    GroqQueue.named("web", fair_by="time")  # wrong
    GroqQueue.named("web", max_worker=8)  # wrong
    GroqQueue.named("web", None, max_worker=8)  # wrong
    GroqQueue.named("web", GroqQueue, api_keys="gsk_x")  # wrong
    GroqQueue.named("web", GroqQueue.simulated, latency="fast")  # wrong
    GroqQueue.named("web", GroqQueue.simulated, api_key="gsk_x")  # wrong
    GroqQueue.attach(5)  # wrong
    groq_queue.estimate(5)  # wrong
    groq_queue.estimate(["a"], model=5)  # wrong
    groq_queue.estimate(["a"], latency="1")  # wrong
    groq_queue.estimate(["a"], tokens="5")  # wrong
    groq_queue.estimate(["a"], audio_seconds="5")  # wrong
    groq_queue.estimate(["a"], priority="urgent")  # wrong
    groq_queue.estimate(["a"], messages=[])  # wrong


def used(queue: GroqQueue) -> None:
    future = queue.submit("Why?")
    queue.submit(5)  # wrong
    queue.submit(print)  # wrong
    queue.submit(messages="Why?")  # wrong
    queue.submit("Why?", priority="urgent")  # wrong
    queue.submit("Why?", client=5)  # wrong
    queue.submit("Why?", model=5)  # wrong
    queue.submit("Why?", deadline="20")  # wrong
    queue.submit("Why?", callback="note")  # wrong
    queue.submit("Why?", dedupe="yes")  # wrong
    queue.submit_call("abc")  # wrong
    queue.submit_call(len, "abc", queue_options=5)  # wrong
    queue.submit_call(len, "abc", queue_options={"priority": "urgent"})  # wrong
    queue.submit_call(len, "abc", queue_options={"tokens": "5"})  # wrong
    queue.submit_call(len, "abc", queue_options={"prioritty": "low"})  # wrong
    queue.submit_call(len, "abc", queue_options={"dedupe": True})  # wrong
    queue.complete(5)  # wrong
    queue.complete("Why?", priority="urgent")  # wrong
    queue.complete("Why?", tokens="5")  # wrong
    queue.map(5)  # wrong
    queue.map([5])  # wrong
    queue.map(["a"], messages=[])  # wrong
    queue.map(["a"], errors="skip")  # wrong
    queue.map(["a"], priority="urgent")  # wrong
    queue.map(["a"], buffersize="4")  # wrong
    queue.map_column(["a"], 5)  # wrong
    queue.map_column(5)  # wrong
    queue.map_column("a")  # wrong
    queue.map_column(["a"], errors="return")  # wrong
    queue.map_column(["a"], progress="yes")  # wrong
    queue.map_column(["a"], done="a")  # wrong
    queue.map_column(["a"], priority="urgent")  # wrong
    queue.map_column(["a"], tokens="5")  # wrong
    queue.map_column(["a"], custom_id=5)  # wrong
    queue.map_column(["a"], messages=[])  # wrong
    queue.map_column(pandas.Series(["a"]), deadline="20")  # wrong
    queue.cancel(future)  # wrong
    queue.get(5)  # wrong
    queue.cancel_all(priority="urgent")  # wrong
    queue.set_priority("1", "low")  # wrong
    queue.set_priority(future, "urgent")  # wrong
    queue.info("1")  # wrong
    queue.explain("1")  # wrong
    queue.pause(5)  # wrong
    queue.resume(5)  # wrong
    queue.set_weight("a", "2")  # wrong
    queue.join("1")  # wrong
    queue.shutdown(now=True)  # wrong
    queue.with_options("low")  # wrong
    queue.with_options(priority="urgent")  # wrong
    queue.with_options(client=5)  # wrong
    queue.with_options(dedupe="yes")  # wrong
    queue.with_options(callback="note")  # wrong
    queue.with_options(custom_id="1")  # wrong
    queue.with_options(messages=[])  # wrong
    queue.estimate(5)  # wrong
    queue.estimate(["a"], model=5)  # wrong
    queue.estimate(["a"], output_share="all")  # wrong
    queue.estimate(["a"], tokens="5")  # wrong
    queue.estimate(["a"], priority="urgent")  # wrong
    queue.estimate(["a"], messages=[])  # wrong
    queue.executor(4)  # wrong
    queue.base_url = "x"  # wrong
    number: int = future.request_id  # wrong
    text: int = queue.complete("Why?").text  # wrong
    record: Record = queue.stats()  # wrong
    one: Completion = next(queue.map(["a"], errors="return"))  # wrong
    groq_queue.priority("urgent")  # wrong
    groq_queue.client(5)  # wrong
    column: list[str] = queue.map_column(["a"])  # wrong
    print(number, text, record, one, column)


def used_by_view(queue: GroqQueue) -> None:
    view = queue.with_options(priority="low")
    view.submit(5)  # wrong
    view.submit("Why?", priority="urgent")  # wrong
    view.submit("Why?", client=5)  # wrong
    view.submit_call("abc")  # wrong
    view.submit_call(len, "abc", queue_options={"prioritty": "low"})  # wrong
    view.complete("Why?", deadline="20")  # wrong
    view.map(["a"], errors="skip")  # wrong
    view.map_column(["a"], priority="urgent")  # wrong
    view.map_column(["a"], tokens="5")  # wrong
    view.with_options(priority="urgent")  # wrong
    view.with_options(max_wait="1")  # wrong
    view.executor(4)  # wrong
    view.shutdown()  # wrong
    with view.executor() as executor:
        executor.submit(len, 5)  # wrong


def adapted(queue: GroqQueue) -> None:
    requests_adapter("queue")  # wrong
    requests_adapter(queue, priority="urgent")  # wrong
    requests_adapter(queue, client=5)  # wrong
    requests_adapter(queue, idle_timeout="5")  # wrong
    requests_adapter(queue, pool_maxsize="10")  # wrong
    requests_adapter(queue, pool_max_size=10)  # wrong
    sdk_http_client("queue", groq_queue)  # wrong
    sdk_http_client(queue, groq_queue, priority="urgent")  # wrong
    sdk_http_client(queue, groq_queue, deadline="20")  # wrong


def simulated() -> None:
    GroqSimulator(rpm="30")  # wrong
    GroqSimulator(limits=30)  # wrong
    GroqSimulator(settlement="late")  # wrong
    GroqSimulator(headers_at="end")  # wrong
    Fault(status="500")  # wrong
    Fault(reset="between")  # wrong
