"""An adapter for ``requests``: code that posts to the API waits its turn, and is not changed.

For people who have code built on a ``requests.Session``. Mount the adapter at the place
where the session is made. Every POST that names a ``model`` is then counted against
your limits and retried by the queue; everything else goes straight through. The
thread that calls ``post`` blocks until the answer is there.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import requests

from groq_queue import GroqQueue, Limits
from groq_queue.integrations import requests_adapter

API = os.environ.get("GROQ_BASE_URL", "https://api.groq.com")


def existing_code(session: requests.Session, city: str) -> str:
    """Do what it has always done."""
    response = session.post(
        f"{API}/openai/v1/chat/completions",
        json={
            "model": "llama-3.1-8b-instant",
            "messages": [{"role": "user", "content": f"Weather in {city}?"}],
            "max_completion_tokens": 40,
        },
        timeout=(5, 60),
    )
    response.raise_for_status()
    text: str = response.json()["choices"][0]["message"]["content"]
    return text


def main() -> None:
    cities = ["Oslo", "Lima", "Pune", "Kyiv", "Accra", "Quito", "Hanoi", "Turin"]
    with GroqQueue(limits=Limits(rpm=30, tpm=6_000)) as queue, requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {os.environ['GROQ_API_KEY']}"
        session.mount(API, requests_adapter(queue))  # the one new line
        with ThreadPoolExecutor(8) as threads:
            texts = threads.map(lambda city: existing_code(session, city), cities)
            for city, text in zip(cities, texts, strict=True):
                print(f"{city}: {text}")


if __name__ == "__main__":
    main()
