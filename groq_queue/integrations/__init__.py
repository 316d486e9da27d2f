"""Adapters for code that exists already: nothing of it is patched; it gets an HTTP client or adapter of the queue.

Each waits in the queue before it sends. Nothing is imported before it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from groq_queue.api.queue import GroqQueue
    from groq_queue.core.priority import PriorityLike
    from groq_queue.integrations.requests import AdapterOptions, QueueAdapter

__all__ = ["requests_adapter", "sdk_http_client"]


def requests_adapter(
    queue: GroqQueue,
    *,
    priority: PriorityLike = "normal",
    client: str = "default",
    max_wait: float | None = None,
    deadline: float | None = None,
    idle_timeout: float | None = 5.0,
    **adapter_options: Unpack[AdapterOptions],
) -> QueueAdapter:
    """Return an adapter that makes every call of a ``requests.Session`` wait for its turn.

        session.mount("https://api.groq.com", requests_adapter(queue))

    A POST whose body is a JSON object that names a ``model`` is queued: it is priced by its body, counts
    against the limits of its model and is retried by the queue. Everything else goes straight through. The
    caller's thread blocks until the answer is there; time-outs, proxies, ``verify``, ``cert`` and the key are
    those of the call. When nothing more can be done the last response is returned, or the last exception of
    requests raised. ``QueueTimeout``, ``RequestTooLarge`` and other errors of the queue are raised as they are.

    A response got with ``stream=True`` keeps its worker and its place in the limits until it is read to its
    end, closed or forgotten, or until it has not been read for *idle_timeout*; waiting for the server is reading.
    Then its slot is given back by itself, counted in full unless its usage was seen, and a reader that comes
    back reads on without a slot. ``shutdown`` does not wait for readers.

    Args:
        queue: Whose limits and order hold. Its own key and base URL are not used.
        priority: Of every request.
        client: Whose turn every request uses.
        max_wait: Seconds in which a request must have started.
        deadline: Seconds after which no attempt starts.
        idle_timeout: Seconds without a read after which a stream gives its slot back; None is never.
        adapter_options: As for ``requests.adapters.HTTPAdapter``, except ``max_retries``.

    Raises:
        ConfigurationError: An argument cannot be used.
    """
    from groq_queue.integrations.requests import QueueAdapter

    turns = {"priority": priority, "client": client, "max_wait": max_wait, "deadline": deadline}
    return QueueAdapter(queue, turns, idle_timeout, **adapter_options)


def sdk_http_client(
    queue: GroqQueue,
    sdk: Any,
    *,
    priority: PriorityLike = "normal",
    client: str = "default",
    max_wait: float | None = None,
    deadline: float | None = None,
    idle_timeout: float | None = 5.0,
    **client_options: Any,
) -> Any:
    """Return an HTTP client for the official SDKs that makes every call wait for its turn.

        Groq(http_client=sdk_http_client(queue, groq), max_retries=0)

    It is of the very class that the SDK would make for itself (httpx or httpx2), with the SDK's defaults. What
    is queued, what is returned and how streams behave: as for ``requests_adapter``. An error status that the
    queue gave up on is marked so that the SDK does not send it again; what the SDK retries all the same (after
    exceptions) is warned about once: make its client with ``max_retries=0``.

    Args:
        queue: Whose limits and order hold. Its own key and base URL are not used.
        sdk: The module ``groq``, ``openai``, or another with the same design, or a client of it.
        priority: Of every request.
        client: Whose turn every request uses.
        max_wait: Seconds in which a request must have started.
        deadline: Seconds after which no attempt starts.
        idle_timeout: Seconds without a read after which a stream gives its slot back; None is never.
        client_options: As for ``httpx.Client``.

    Raises:
        ConfigurationError: An argument cannot be used; *sdk* is asynchronous or none of that kind.
    """
    from groq_queue.integrations.sdk import make_client

    turns = {"priority": priority, "client": client, "max_wait": max_wait, "deadline": deadline}
    return make_client(queue, sdk, turns, idle_timeout, client_options)
