"""Priorities and clients: urgent requests go first, and no client takes everything.

For people who serve several customers, or users and batch work, from one key. A more
urgent request passes all that have not been sent yet. Within a level clients take
turns, however much each has queued; a weight of 3 is three turns for one.
"""

from concurrent.futures import Future

import groq_queue
from groq_queue import Completion, GroqQueue, Limits

order: list[str] = []


def note(future: Future[Completion]) -> None:
    """Write down who was answered; with one worker answers come in the order of sending."""
    order.append(str(future.result().custom_id))


def legacy_code(queue: GroqQueue) -> None:
    """Ask something, deep in code that has no parameter for a priority or a client."""
    queue.submit("Is the site up?", custom_id="watchdog", callback=note)


def main() -> None:
    with GroqQueue(model="llama-3.1-8b-instant", limits=Limits(rpm=1_000), max_workers=1) as queue:
        queue.set_weight("gold", 3)
        queue.pause()  # only for this demonstration: let all of it be in line before the first is sent
        for number in range(4):
            queue.submit("Tag this.", client="batch", priority="low", custom_id=f"batch-{number}", callback=note)
        for number in range(6):
            queue.submit("Where is my order?", client="gold", custom_id=f"gold-{number}", callback=note)
            queue.submit("Where is my order?", client="free", custom_id=f"free-{number}", callback=note)
        with groq_queue.priority("critical"), groq_queue.client("operations"):
            legacy_code(queue)
        late = queue.submit("Tag this too.", client="batch", priority="background", max_wait=3600, callback=note)
        print("the last in line:", queue.explain(late).state, "behind", queue.stats().pending - 1)
        late.cancel()
        queue.resume()
    print(" ".join(order))


if __name__ == "__main__":
    main()
