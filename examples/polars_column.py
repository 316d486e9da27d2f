"""A polars column: the same as with pandas, a polars Series in and out.

For people who have a polars DataFrame. Null is not asked about and stays null; name and
length stay, so the answers fit beside the questions.

    python polars_column.py
"""

import polars as pl

from groq_queue import GroqQueue


def main() -> None:
    words = pl.DataFrame({"word": ["tea", "rust", None, "snow"], "times": [3, 1, 7, 2]})
    with GroqQueue(model="llama-3.1-8b-instant") as queue:
        haiku = queue.map_column(words["word"], "A haiku about {}.", max_completion_tokens=60)
    print(words.with_columns(haiku.alias("haiku")).write_json())


if __name__ == "__main__":
    main()
