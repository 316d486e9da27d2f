"""Several processes on one key: divide the limits between them.

For whoever has CPU-bound work around each call, or several web workers. Each process
makes a queue of its own and counts alone, so each may only count on its share: a third
of the limits for each of three processes is never refused. It wastes the share of a
process that idles. One budget for all of them is what ``limiter=`` is for ("sqlite:///…" for one
machine, "redis://…" for many); ``margin=`` leaves a share to programs that you do not
control.
"""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from groq_queue import GroqQueue, Limits

PROCESSES = 3
RPM, TPM = 120, 60_000  # of the account, as its page of limits says
SHARE = Limits(rpm=RPM // PROCESSES, tpm=TPM // PROCESSES)


def answer(questions: list[str]) -> list[str]:
    """Answer one part of the work, in a process of its own."""
    # Made here, in the process that uses it: a queue cannot be pickled, and its threads do not survive a fork.
    with GroqQueue(model="llama-3.1-8b-instant", limits=SHARE) as queue:
        return [answer.text for answer in queue.map(questions, max_completion_tokens=20)]


def main() -> None:
    questions = [f"Is {number} prime?" for number in range(126)]
    parts = [questions[first::PROCESSES] for first in range(PROCESSES)]
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as processes:
        answers = [text for texts in processes.map(answer, parts) for text in texts]
    print(len(answers), "answers from", PROCESSES, "processes")


if __name__ == "__main__":
    main()
