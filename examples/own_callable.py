"""Your own callable: the official groq SDK, called by the queue.

For people who have functions that call the SDK and want to keep them. ``submit_call``
runs them under the same budget, order and retries. What the SDK raises (it has a
``status_code`` and a ``response``) is retried as the queue's own requests are; turn the
SDK's own retries off. What it returns is returned untouched.

    export GROQ_API_KEY=gsk_…
    python own_callable.py
"""

from groq import Groq

from groq_queue import GroqQueue, Limits

MODEL = "llama-3.1-8b-instant"


def main() -> None:
    # A callable's headers are not seen, so the limits are given here; and the SDK's own retries are off.
    with Groq(max_retries=0) as sdk, GroqQueue(model=MODEL, limits=Limits(rpm=30, tpm=6_000)) as queue:
        futures = [
            queue.submit_call(
                sdk.chat.completions.create,
                model=MODEL,  # the callable's own arguments, which also tell the price
                messages=[{"role": "user", "content": f"Name {count} rivers."}],
                max_completion_tokens=50,
                queue_options={"priority": "high", "client": "atlas"},  # the queue's
            )
            for count in range(1, 7)
        ]
        for future in futures:
            print(future.result().choices[0].message.content)
        thought = queue.submit_call(third_party, "tea", queue_options={"tokens": 200})  # tokens: the price, told by you
        print(thought.result())


def third_party(topic: str) -> str:
    """Stand for any library that calls a model inside."""
    return f"a thought about {topic}"


if __name__ == "__main__":
    main()
