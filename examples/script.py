"""A script: a list of questions, the answers in the same order.

For people who have a file or a list of questions. ``map`` sends up to your limits and
no faster, shows its progress on stderr, and gives back a failed question as its error,
in its place, instead of ending the rest.

    export GROQ_API_KEY=gsk_…
    python script.py
"""

from groq_queue import Completion, GroqQueue

CITIES = ["Oslo", "Lima", "Pune", "Kyiv", "Accra", "Quito", "Hanoi", "Turin"]


def main() -> None:
    with GroqQueue(model="llama-3.1-8b-instant") as queue:  # no limits= : they are learnt from the first answer
        questions = [f"Name one river near {city}." for city in CITIES]
        answers = queue.map(questions, errors="return", progress=True, max_completion_tokens=60)
        for city, answer in zip(CITIES, answers, strict=True):
            if isinstance(answer, Completion):
                print(f"{city}: {answer.text}")
            else:
                print(f"{city}: failed, {answer}")


if __name__ == "__main__":
    main()
