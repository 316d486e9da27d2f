"""Every public method with an argument that is wrong: a type checker finds each line that ends in "# wrong"."""

from __future__ import annotations

import groq_queue
from groq_queue import Completion, GroqQueue, Limits, Record


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
    GroqQueue.simulated(latency="fast")  # wrong
    GroqQueue.named(5)  # wrong
    GroqQueue.attach(5)  # wrong


def used(queue: GroqQueue) -> None:
    future = queue.submit("Why?")
    queue.submit("Why?", priority="urgent")  # wrong
    queue.submit("Why?", client=5)  # wrong
    queue.submit("Why?", model=5)  # wrong
    queue.submit("Why?", deadline="20")  # wrong
    queue.submit("Why?", callback="note")  # wrong
    queue.submit("Why?", dedupe="yes")  # wrong
    queue.submit_call("abc")  # wrong
    queue.submit_call(len, "abc", queue_options=5)  # wrong
    queue.complete("Why?", priority="urgent")  # wrong
    queue.complete("Why?", tokens="5")  # wrong
    queue.map(5)  # wrong
    queue.map(["a"], errors="skip")  # wrong
    queue.map(["a"], priority="urgent")  # wrong
    queue.map(["a"], buffersize="4")  # wrong
    queue.map_column(["a"], 5)  # wrong
    queue.map_column(["a"], errors="return")  # wrong
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
    queue.executor(4)  # wrong
    queue.base_url = "x"  # wrong
    number: int = future.request_id  # wrong
    text: int = queue.complete("Why?").text  # wrong
    record: Record = queue.stats()  # wrong
    one: Completion = next(queue.map(["a"], errors="return"))  # wrong
    groq_queue.priority("urgent")  # wrong
    groq_queue.client(5)  # wrong
    print(number, text, record, one)
