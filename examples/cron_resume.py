"""A cron job with a journal: killed at any moment, the next run sends only what is left.

For nightly jobs on machines that restart. Every request is in a file before it is
sent and every answer before you get it. A ``custom_id`` that was answered is not sent
and not paid for again: its answer comes from the file.

    */10 * * * *  cd /srv/reports && python cron_resume.py >> answers.log
"""

import sys
from concurrent.futures import Future, as_completed
from pathlib import Path

from groq_queue import Completion, GroqQueue, GroqQueueError, JournalError


def main(articles: Path, journal: Path) -> int:
    try:
        queue = GroqQueue(model="llama-3.1-8b-instant", journal=journal)
    except JournalError as error:  # the run of ten minutes ago still has it: leave it alone
        print("not now:", error, file=sys.stderr)
        return 0
    with queue:
        futures: dict[Future[Completion], Path] = {
            queue.submit(
                f"Summarise: {path.read_text(encoding='utf-8')}", custom_id=path.name, max_completion_tokens=60
            ): path
            for path in sorted(articles.glob("*.txt"))
        }
        for future in as_completed(futures):
            path = futures[future]
            try:
                path.with_suffix(".summary").write_text(future.result().text, encoding="utf-8")
            except GroqQueueError as error:
                print(f"{path.name}: {error}", file=sys.stderr)
        print(f"{len(futures)} articles, {queue.stats().attempts} requests sent by this run")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
