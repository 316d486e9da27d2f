"""The official groq SDK through the queue: pass it an HTTP client, change nothing else.

For people who call the SDK from threads and see 429s. The client is of the class the
SDK makes for itself, so time-outs, proxies and hooks stay its own. A stream holds its
place until it is read to its end or closed.
"""

from concurrent.futures import ThreadPoolExecutor

import groq

from groq_queue import GroqQueue, Limits
from groq_queue.integrations import sdk_http_client

MODEL = "llama-3.1-8b-instant"


def ask(client: groq.Groq, question: str) -> str:
    """Call the SDK as its documentation says."""
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": question}], max_completion_tokens=40
    )
    return answer.choices[0].message.content or ""


def main() -> None:
    questions = [f"What is {number} squared?" for number in range(1, 9)]
    with (
        GroqQueue(limits=Limits(rpm=30, tpm=6_000)) as queue,
        groq.Groq(http_client=sdk_http_client(queue, groq), max_retries=0) as client,  # the one changed line
    ):
        with ThreadPoolExecutor(8) as threads:
            texts = threads.map(lambda question: ask(client, question), questions)
            for question, text in zip(questions, texts, strict=True):
                print(question, text)
        stream = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Count to three."}], stream=True
        )
        print("streamed:", "".join(piece.choices[0].delta.content or "" for piece in stream if piece.choices))


if __name__ == "__main__":
    main()
