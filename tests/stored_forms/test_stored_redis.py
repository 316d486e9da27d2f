"""A Redis that an earlier version wrote is gone on with: requests that wait for workers, answers, and shared budgets.

``redis.json`` holds the commands that bring it back, written by version 0.1.0 through ``write``. It is never written
anew: a later version adds a file of its own beside it.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from redis_server import RedisServer
from worker_fleet import MODEL, PATIENCE_S, Fleet, fleet, one_server, server

from groq_queue import GroqQueue, GroqSimulator, Limits

__all__ = ["fleet", "one_server", "server"]

HERE = Path(__file__).parent
OWNER = re.compile(r"\{default:\w+\}")
LIMITS = Limits(rpm=1_000, tpm=100_000, tpd=1_000_000, day_s=10**9)


def budgeted(server: RedisServer, groq: GroqSimulator) -> GroqQueue:
    return GroqQueue(base_url=groq.base_url, api_key="gsk_test", model=MODEL, limits=LIMITS, limiter=server.url)


def write() -> None:
    """Leave one answered request, four that wait for a worker, and a day of which a part is spent."""
    server = RedisServer()
    try:
        ours = Fleet(server, limits=LIMITS)
        worker = ours.start_worker()
        queue = ours.queue()
        answered = queue.submit("Question one", custom_id="one", max_completion_tokens=50)
        answered.result(PATIENCE_S)
        ours.stop_worker(worker)
        waiting = [queue.submit(f"Later {number}", max_completion_tokens=50) for number in range(3)]
        waiting.append(queue.submit("Urgent", priority="high", client="acme", seed=1))
        ids = [future.request_id for future in (answered, *waiting)]  # type: ignore[attr-defined]
        with budgeted(server, ours.groq) as shared:
            shared.submit("Question two", max_completion_tokens=50).result(PATIENCE_S)
        lines = ",\n".join(json.dumps(command) for command in commands_of(server))
        text = f'{{\n"ids": {json.dumps(ids)},\n"commands": [\n{lines}\n]\n}}\n'
        (HERE / "redis.json").write_text(text, encoding="ascii")
        os._exit(0)  # four requests are still open, and who shuts the queue down would wait for them
    finally:
        server.stop()


def commands_of(server: RedisServer) -> list[list[str]]:
    """Return commands that make what a server holds; bytes are characters of Latin-1."""
    import redis

    client: Any = redis.Redis.from_url(server.url, encoding="latin-1", decode_responses=True)
    commands = []
    for key in sorted(client.keys()):
        kind = client.type(key)
        if kind == "string":
            commands.append(["SET", key, client.get(key)])
        elif kind == "hash":
            commands.append(["HSET", key, *(text for pair in client.hgetall(key).items() for text in pair)])
        elif kind == "list":
            commands.append(["RPUSH", key, *client.lrange(key, 0, -1)])
        elif kind == "set":
            commands.append(["SADD", key, *sorted(client.smembers(key))])
        elif kind == "zset":
            pairs = client.zrange(key, 0, -1, withscores=True)
            commands.append(["ZADD", key, *(text for member, score in pairs for text in (repr(score), member))])
        else:
            raise AssertionError(f"{key} is a {kind}")
    client.close()
    return commands


def stored() -> dict[str, Any]:
    """Return what was written: the commands, and the ids of the requests, the answered one first."""
    return dict(json.loads((HERE / "redis.json").read_text(encoding="ascii")))


def bring_back(server: RedisServer, owner: str | None = None) -> None:
    """Let *server* hold what was stored and nothing else, as budgets of *owner* if one is named."""
    import redis

    client: Any = redis.Redis.from_url(server.url, encoding="latin-1")
    client.flushall()
    for command in stored()["commands"]:
        client.execute_command(*(text if owner is None else OWNER.sub(owner, text) for text in command))
    client.close()


def owner_of_budgets(server: RedisServer) -> str:
    """Return whose budgets a server holds: an address and a key, as they stand in the names of its keys."""
    import redis

    client: Any = redis.Redis.from_url(server.url, decode_responses=True)
    (owner,) = {found[0] for key in client.scan_iter() if (found := OWNER.search(key))}
    client.close()
    return str(owner)


def test_requests_that_waited_in_redis_are_sent_and_answers_are_read(server, fleet):
    bring_back(server)
    ours = fleet(limits=LIMITS)
    ours.start_worker()

    answers = [GroqQueue.attach(each, broker=ours.broker).result(PATIENCE_S) for each in stored()["ids"]]

    assert "Question one" in answers[0].text
    assert ["Later 0", "Later 1", "Later 2", "Urgent"] == sorted(ours.prompts())
    with ours.queue() as queue:
        assert queue.submit("One more", max_completion_tokens=50).result(PATIENCE_S)


def test_what_was_spent_of_a_day_in_redis_stays_spent(server):
    with GroqSimulator(limits=LIMITS) as groq:
        with budgeted(server, groq) as queue:
            queue.submit("Whose budgets?", max_completion_tokens=50).result(PATIENCE_S)
        bring_back(server, owner_of_budgets(server))
        with budgeted(server, groq) as queue:
            queue.submit("One more", max_completion_tokens=50).result(PATIENCE_S)
            (lane,) = queue.stats().lanes
            (day,) = [level for level in lane.limits if level.dimension == "TPD"]

    assert day.used > groq.log[-1].used_tokens > 0


if __name__ == "__main__":
    write()
