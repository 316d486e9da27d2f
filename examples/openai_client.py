"""The official openai SDK through the queue: any API of its dialect, any library that takes a client.

For people who point the openai SDK, or something built on it, at Groq or another
provider. Interactive requests and batch work can share one queue: make a client
for each.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import openai

from groq_queue import GroqQueue, Limits
from groq_queue.integrations import sdk_http_client

MODEL = "llama-3.1-8b-instant"


def client_of(queue: GroqQueue, priority: Literal["high", "low"]) -> openai.OpenAI:
    """Return the SDK's client, whose calls have that priority."""
    return openai.OpenAI(
        api_key=os.environ["GROQ_API_KEY"],
        base_url=os.environ.get("GROQ_BASE_URL", "https://api.groq.com") + "/openai/v1",
        http_client=sdk_http_client(queue, openai, priority=priority, client=priority),
        max_retries=0,
    )


def ask(client: openai.OpenAI, question: str) -> str:
    """Call the SDK as its documentation says."""
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": question}], max_completion_tokens=40
    )
    return answer.choices[0].message.content or ""


def main() -> None:
    with (
        GroqQueue(limits=Limits(rpm=30, tpm=6_000)) as queue,
        client_of(queue, "high") as people,
        client_of(queue, "low") as batch,
        ThreadPoolExecutor(8) as threads,
    ):
        tags = [threads.submit(ask, batch, f"Tag text {number}.") for number in range(6)]
        print("people:", ask(people, "Where is my order?"))
        for tag in tags:
            print("batch:", tag.result())


if __name__ == "__main__":
    main()
