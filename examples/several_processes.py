"""Several processes on one key: they count together in one file.

For people who have CPU-bound work around each call, or several web workers. Each process
makes a queue of its own; ``limiter=`` names the file in which all of them count, so
that together they stay exactly at the limits, whichever are idle. On many hosts it is
``limiter="redis://…"``. A queue also works in a process that was forked with it.
"""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from groq_queue import GroqQueue, Limits

PROCESSES = 3
LIMITS = Limits(rpm=120, tpm=60_000)  # of the account, as its page of limits says


def answer(questions: list[str]) -> list[str]:
    """Answer one part of the work, in a process of its own."""
    with GroqQueue(model="llama-3.1-8b-instant", limits=LIMITS, limiter="sqlite:///budgets.db") as queue:
        return [answer.text for answer in queue.map(questions, max_completion_tokens=20)]


def main() -> None:
    questions = [f"Is {number} prime?" for number in range(126)]
    parts = [questions[first::PROCESSES] for first in range(PROCESSES)]
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as processes:
        answers = [text for texts in processes.map(answer, parts) for text in texts]
    print(len(answers), "answers from", PROCESSES, "processes")


if __name__ == "__main__":
    main()
