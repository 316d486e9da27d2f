"""A Flask view: people wait, so they go first, take turns, and get an error when it is too much.

For web applications that answer requests with a model. There is one queue for each
server process, made at the first request. With several server processes add
``limiter="sqlite:///budgets.db"`` to its arguments: they then count in one file and stay
at the limits together.

    flask --app flask_view run
"""

from functools import cache

from flask import Flask, Response, jsonify, request

from groq_queue import GroqQueue, QueueFull, QueueTimeout

app = Flask(__name__)


@cache
def queue() -> GroqQueue:
    """Return the queue of this process."""
    # Named, because two threads may come here at once: both get the same one.
    return GroqQueue.named(
        "web", model="llama-3.1-8b-instant", max_workers=16, max_pending_per_client=2, when_full="raise"
    )


@app.post("/ask")
def ask() -> tuple[Response, int]:
    """Answer ``{"question": …}``; who asks too much at once, or would wait too long, is told so."""
    question = request.get_json()["question"]
    person = request.headers.get("X-User", "anonymous")
    try:
        answer = queue().complete(question, priority="high", client=person, deadline=20, max_completion_tokens=200)
    except QueueFull:
        return jsonify(error="you have asked a lot already; wait for an answer"), 429
    except QueueTimeout as late:
        return jsonify(error="busy", retry_after=late.retry_after), 503
    return jsonify(answer=answer.text, waited=round(answer.waited, 3)), 200


@app.post("/digest")
def digest() -> tuple[Response, int]:
    """Queue work that nobody waits for; it never delays ``/ask``."""
    queued = queue().submit(request.get_json()["text"], priority="background", client="digests")
    return jsonify(request_id=queue().info(queued).request_id), 202


@app.get("/health")
def health() -> Response:
    """Tell what waits."""
    stats = queue().stats()
    return jsonify(pending=stats.pending, completed=stats.completed, failed=stats.failed)
