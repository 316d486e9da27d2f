"""A pandas column: one question for each row, one column of answers.

For people who have a DataFrame. The new column has the old one's index and length, so it
fits rows that were filtered or sorted before; a missing value is not asked about and
stays missing, and so does what fails with ``errors="coerce"``.

    python pandas_column.py tickets.csv answered.csv
"""

import sys

import pandas as pd

from groq_queue import GroqQueue

TEMPLATE = 'Answer with {"topic": …} alone. What is this about? {}'  # {} is the value, other braces stay


def main(source: str, target: str) -> None:
    tickets = pd.read_csv(source)
    open_ones = tickets[tickets["status"] == "open"]
    with GroqQueue(model="llama-3.1-8b-instant") as queue:
        print(queue.estimate(open_ones["text"].dropna(), max_completion_tokens=20).tokens, "tokens at most")
        tickets["topic"] = queue.map_column(
            open_ones["text"],
            TEMPLATE,
            errors="coerce",
            dedupe=True,  # the same text twice is one call
            max_completion_tokens=20,
            response_format={"type": "json_object"},
        )
    tickets.to_csv(target, index=False)
    print(tickets["topic"].notna().sum(), "of", len(tickets), "rows have a topic")


if __name__ == "__main__":
    main(*sys.argv[1:])
