"""A Celery task: each worker process has one queue, which all its tasks share.

For people who call a model inside tasks. The queue is made by the first task that runs,
after the worker has forked, and stays: what it learnt about the limits stays too.
The worker's processes count in one file, so that they stay at the limits together; on
several hosts it is ``limiter="redis://…"``.

    export CELERY_BROKER_URL=redis://localhost CELERY_RESULT_BACKEND=redis://localhost
    celery -A celery_task worker --concurrency 2 &
    python celery_task.py
"""

from functools import cache
from typing import Any

from celery import Celery

from groq_queue import GroqQueue, Limits, QueueTimeout

LIMITS = Limits(rpm=120, tpm=60_000)  # of the account

app = Celery("celery_task")
app.config_from_object("celeryconfig", silent=True)  # broker and results: this file, if there is one, or CELERY_…


@cache
def queue() -> GroqQueue:
    """Return the queue of this worker process."""
    # Named, because with --pool threads two tasks may come here at once: both get the same one.
    return GroqQueue.named("tasks", model="llama-3.1-8b-instant", limits=LIMITS, limiter="sqlite:///budgets.db")


@app.task(name="answer", bind=True, max_retries=3)
def answer(self: Any, question: str, priority: int = 5) -> str:
    """Return the answer to *question*; a worker that is too busy puts the task back."""
    try:
        return queue().complete(question, priority=priority, deadline=30, max_completion_tokens=50).text
    except QueueTimeout as late:
        raise self.retry(exc=late, countdown=late.retry_after or 10) from late


if __name__ == "__main__":
    sent = [answer.delay(f"Is {number} prime?") for number in range(6)]
    for result in sent:
        print(result.get(timeout=60))
