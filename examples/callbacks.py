"""Callbacks: go on with each answer when it comes, and ask more from there.

For programs that are called with each answer instead of waiting for it. A callback gets
the Future, runs on a worker thread, and may submit, cancel and shut down. One that
raises is logged with its ``custom_id`` and harms nothing else. A queue that is leaving
its ``with`` block takes nothing new, from callbacks neither: ``join()`` first, if they
ask more.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock

from groq_queue import Completion, GroqQueue

TOPICS = ["tea", "rust", "snow"]


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    drafts: dict[str, str] = {}
    finals: dict[str, str] = {}
    lock = Lock()  # two workers may call back at the same time

    with GroqQueue(model="llama-3.1-8b-instant") as queue:

        def when_drafted(topic: str) -> Callable[[Future[Completion]], None]:
            def drafted(future: Future[Completion]) -> None:
                text = future.result().text  # raises what went wrong, if anything did
                with lock:
                    drafts[topic] = text
                queue.submit(f"Make it shorter: {text}", priority="high", callback=shortened, custom_id=topic)

            return drafted

        def shortened(future: Future[Completion]) -> None:
            answer = future.result()
            with lock:
                finals[str(answer.custom_id)] = answer.text

        for topic in TOPICS:
            queue.submit(f"Write about {topic}.", callback=when_drafted(topic), max_completion_tokens=80)
        queue.join()  # until nothing is open, what the callbacks asked included

    for topic in TOPICS:
        print(f"{topic}: {drafts.get(topic)} => {finals.get(topic)}")


if __name__ == "__main__":
    main()
