"""What people run: ours and its peers, each as a way to get a list of jobs answered.

Every one is told the limits and the exact price of each job, which flatters those
that would have to guess. Waits that their documentation gives for a minute of 60 s
are scaled to the minute of the run. Each is made once (imports and a first call to
a model without limits, where a library does much on it), then timed.
"""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from rig.loads import MODEL, OTHER, WARM, Job
from rig.measure import is_installed

THREADS = 32
_GIVE_UP = 300  # tries of a loop that never gives up by itself


@dataclass(frozen=True)
class Course:
    """What a contender is told."""

    base_url: str
    limits: dict[str, dict[str, int]]  # {model: {"rpm": n}}; a model without an entry has none
    minute_s: float
    mean_tokens: float
    threads: int = THREADS

    def of(self, model: str) -> tuple[int | None, int | None]:
        """Return requests and tokens a minute."""
        limit = self.limits.get(model, {})
        return limit.get("rpm"), limit.get("tpm")


Send = Callable[[Job], bool]
Run = Callable[[Sequence[Job]], int]


class Connection:
    """POSTs over one urllib3 pool: what is below every contender that brings no client of its own."""

    def __init__(self, course: Course) -> None:
        import urllib3

        self._http = urllib3.PoolManager(maxsize=course.threads, retries=False, timeout=60)
        self._address = f"{course.base_url}/chat/completions"

    def post(self, job: Job) -> tuple[int, float]:
        """Return the status, 0 for a broken connection, and the seconds of ``Retry-After``."""
        import urllib3

        try:
            answer = self._http.request(
                "POST",
                self._address,
                body=json.dumps(job.payload),
                headers={"Authorization": "Bearer k", "Content-Type": "application/json"},
            )
        except urllib3.exceptions.HTTPError:
            return 0, 0.0
        if answer.status == 200:
            answer.json()
        return answer.status, float(answer.headers.get("retry-after", 1))

    def post_until_answered(self, job: Job) -> bool:
        """Wait as told after each refusal, half a second after any other failure."""
        for _ in range(_GIVE_UP):
            status, wait_s = self.post(job)
            if status == 200:
                return True
            time.sleep(wait_s if status == 429 else 0.5)
        return False


def in_pool(send: Send, threads: int) -> Run:
    """Return what runs *send* for each job in a ThreadPoolExecutor."""

    def safely(job: Job) -> bool:
        try:
            return send(job)
        except Exception:  # a library's way to say that it gives up
            return False

    def run(jobs: Sequence[Job]) -> int:
        with ThreadPoolExecutor(threads) as pool:
            return sum(pool.map(safely, jobs))

    return run


def ours(course: Course) -> Run:
    from groq_queue import GroqQueue, Limits

    def run(jobs: Sequence[Job]) -> int:
        models = {job.payload["model"] for job in jobs}  # of one without an entry it is told that it has none
        limits = {model: Limits(minute_s=course.minute_s, **course.limits.get(model, {})) for model in models}
        with GroqQueue(
            api_key="k",
            base_url=course.base_url,
            limits=limits,
            max_workers=course.threads,
            max_pending=None,
            timeout=(5, 60),
        ) as queue:
            futures = [queue.submit(job.payload) for job in jobs]
            return sum(future.exception() is None for future in futures)

    return run


def plain_pool(course: Course) -> Run:
    """A thread pool that sends at once, waits for ``Retry-After`` and tries again."""
    return in_pool(Connection(course).post_until_answered, course.threads)


def groq_sdk(course: Course) -> Run:
    """The official SDK with its own retries, two by default."""
    from groq import Groq

    root = course.base_url.removesuffix("/openai/v1")
    client = Groq(api_key="k", base_url=root)

    def send(job: Job) -> bool:
        client.chat.completions.create(**job.payload)
        return True

    client.chat.completions.create(model=WARM, messages=[{"role": "user", "content": "Warm?"}], max_tokens=1)
    return in_pool(send, course.threads)


def cookbook(course: Course) -> Run:
    """One loop that hands out capacity it refills by the clock, five tries, a pause of all after a refusal.

    Written from the idea of OpenAI's script for many parallel requests, with threads in the place of coroutines.
    """
    connection = Connection(course)
    pause_s = course.minute_s / 4  # 15 s of a true minute

    def run(jobs: Sequence[Job]) -> int:
        again: queue.SimpleQueue[tuple[Job, int]] = queue.SimpleQueue()
        lock = threading.Lock()  # guards the three figures
        answered, ended, paused_until = 0, 0, 0.0

        def attempt(job: Job, tries_left: int) -> None:
            nonlocal answered, ended, paused_until
            status, _ = connection.post(job)
            with lock:
                if status == 429:
                    paused_until = time.monotonic() + pause_s
                if status == 200 or not tries_left:
                    answered += status == 200
                    ended += 1
            if status != 200 and tries_left:
                again.put((job, tries_left - 1))

        waiting = iter(jobs)
        held: dict[str, list[float]] = {}  # model: requests and tokens there are now
        head: tuple[Job, int] | None = None
        before = time.monotonic()
        with ThreadPoolExecutor(4 * course.threads) as pool:
            while ended < len(jobs):
                if head is None and not again.empty():
                    head = again.get()
                if head is None and (job := next(waiting, None)) is not None:
                    head = (job, 5)
                now = time.monotonic()
                for model, levels in held.items():
                    for place, limit in enumerate(course.of(model)):
                        if limit is not None:
                            levels[place] = min(limit, levels[place] + limit * (now - before) / course.minute_s)
                before = now
                if head is not None and now >= paused_until:
                    job, model = head[0], head[0].payload["model"]
                    levels = held.setdefault(model, [float(limit or 0) for limit in course.of(model)])
                    needs = [
                        0 if limit is None else need
                        for limit, need in zip(course.of(model), (1, job.tokens), strict=True)
                    ]
                    if all(level >= need for level, need in zip(levels, needs, strict=True)):
                        held[model] = [level - need for level, need in zip(levels, needs, strict=True)]
                        pool.submit(attempt, *head)
                        head = None
                time.sleep(0.001)
        return answered

    return run


def tenacity(course: Course) -> Run:
    """requests, and the decorator that guides recommend: random exponential waits, six tries."""
    import requests
    from tenacity import Retrying, stop_after_attempt, wait_random_exponential

    session = requests.Session()
    session.trust_env = False
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=course.threads))
    scale = course.minute_s / 60

    def send(job: Job) -> bool:
        def once() -> bool:
            answer = session.post(
                f"{course.base_url}/chat/completions",
                json=job.payload,
                headers={"Authorization": "Bearer k"},
                timeout=60,
            )
            answer.raise_for_status()
            return bool(answer.json())

        wait = wait_random_exponential(multiplier=scale, min=scale, max=60 * scale)
        return bool(Retrying(wait=wait, stop=stop_after_attempt(6), reraise=True)(once))

    return in_pool(send, course.threads)


def pyrate(course: Course) -> Run:
    """pyrate-limiter's token bucket in front of a pool, which waits and tries again when it is refused."""
    from pyrate_limiter import Limiter, Rate, StateBucket, TokenBucket

    limiters = {}
    for model in course.limits:
        rpm, tpm = course.of(model)
        rate = Rate(rpm or tpm or 1, round(course.minute_s * 1_000))
        limiters[model] = Limiter(StateBucket([rate], TokenBucket()))
    connection = Connection(course)

    def send(job: Job) -> bool:
        model = job.payload["model"]
        if model in limiters:
            rpm, _ = course.of(model)
            limiters[model].try_acquire(model, weight=1 if rpm else job.tokens)
        return connection.post_until_answered(job)

    return in_pool(send, course.threads)


def langchain(course: Course) -> Run:
    """ChatOpenAI.batch behind an InMemoryRateLimiter, which counts requests only: tokens through their mean."""
    from langchain_core.rate_limiters import InMemoryRateLimiter
    from langchain_openai import ChatOpenAI

    def chat_of(model: str) -> Any:
        rpm, tpm = course.of(model)
        per_minute = rpm or (tpm / course.mean_tokens if tpm else None)
        limiter = per_minute and InMemoryRateLimiter(requests_per_second=per_minute / course.minute_s)
        return ChatOpenAI(model=model, api_key="k", base_url=course.base_url, rate_limiter=limiter or None)

    chats: dict[str, Any] = {model: chat_of(model) for model in {*course.limits, WARM}}
    chats[WARM].invoke("Warm?", max_tokens=1)

    def send(job: Job) -> bool:
        model = job.payload["model"]
        chat = chats.get(model) or chats.setdefault(model, chat_of(model))
        chat.invoke(job.payload["messages"], max_tokens=job.payload["max_completion_tokens"])
        return True

    return in_pool(send, course.threads)


def litellm(course: Course) -> Run:
    """LiteLLM's Router, told rpm and tpm, enforcing them before a call, five retries."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the network for prices
    import litellm as library
    from litellm import Router

    library.suppress_debug_info = True
    scale = 60 / course.minute_s  # it knows minutes of 60 s only
    models = []
    for model in (MODEL, OTHER, WARM):
        rpm, tpm = course.of(model)
        told = {"model": f"openai/{model}", "api_key": "k", "api_base": course.base_url}
        limits = {"rpm": rpm and round(rpm * scale), "tpm": tpm and round(tpm * scale)}
        models.append(
            {"model_name": model, "litellm_params": told | {name: n for name, n in limits.items() if n is not None}}
        )
    router = Router(model_list=models, num_retries=5)
    router.completion(model=WARM, messages=[{"role": "user", "content": "Warm?"}], max_tokens=1)

    def send(job: Job) -> bool:
        router.completion(**job.payload)
        return True

    return in_pool(send, course.threads)


def lesson(course: Course) -> Run:
    """A worker of the lesson's kind, one for each thread: pops, then sleeps for its slot and its window.

    Our rendition: requests are spaced evenly, tokens counted in windows of a minute; a failure is final.
    """
    connection = Connection(course)

    def run(jobs: Sequence[Job]) -> int:
        waiting: queue.PriorityQueue[tuple[int, int, Job]] = queue.PriorityQueue()
        for number, job in enumerate(jobs):
            waiting.put((5, number, job))
        lock = threading.Lock()  # guards the slots and the windows
        next_slot: dict[str, float] = {}
        window: dict[str, tuple[float, int]] = {}

        def wait_s(job: Job) -> float:
            model = job.payload["model"]
            rpm, tpm = course.of(model)
            now = time.monotonic()
            with lock:
                if rpm is not None:
                    slot = max(now, next_slot.get(model, now))
                    next_slot[model] = slot + course.minute_s / rpm
                    return slot - now
                began, used = window.get(model, (now, 0))
                if tpm is not None and now - began >= course.minute_s:
                    began, used = now, 0
                if tpm is not None and used + job.tokens > tpm:
                    return -(began + course.minute_s - now)
                window[model] = began, used + job.tokens
                return 0.0

        def work() -> int:
            answered = 0
            while True:
                try:
                    _, _, job = waiting.get_nowait()
                except queue.Empty:
                    return answered
                while (delay_s := wait_s(job)) < 0:  # the window is full
                    time.sleep(-delay_s)
                time.sleep(delay_s)
                answered += connection.post(job)[0] == 200

        with ThreadPoolExecutor(course.threads) as pool:
            return sum(future.result() for future in [pool.submit(work) for _ in range(course.threads)])

    return run


@dataclass(frozen=True)
class Contender:
    """A way to send, its name in the tables, and the module it needs."""

    name: str
    make: Callable[[Course], Run]
    needs: str | None = None

    @property
    def is_here(self) -> bool:
        return self.needs is None or is_installed(self.needs)


CONTENDERS = {
    each.name: each
    for each in (
        Contender("groq_queue", ours),
        Contender("thread pool", plain_pool),
        Contender("groq SDK", groq_sdk, "groq"),
        Contender("cookbook loop", cookbook),
        Contender("requests + tenacity", tenacity, "tenacity"),
        Contender("pyrate-limiter", pyrate, "pyrate_limiter"),
        Contender("LangChain", langchain, "langchain_openai"),
        Contender("LiteLLM router", litellm, "litellm"),
        Contender("lesson's worker", lesson),
    )
}
