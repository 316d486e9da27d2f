"""A Django management command: fill one field of every row from another.

For people who have a table and a Django model of it. Save it as
``yourapp/management/commands/ask_rows.py``:

    python manage.py ask_rows shop.Ticket text summary --template "Summarise: {}"

Rows are saved one by one as answers come, so stopping it loses nothing and running it
again does the rest. They are saved here, on the thread of the command, and not in
callbacks: Django opens a database connection for every thread that touches a model.
"""

from argparse import ArgumentParser
from concurrent.futures import Future, as_completed
from typing import Any

from django.apps import apps
from django.core.management.base import BaseCommand, CommandError

from groq_queue import Completion, GroqQueue, GroqQueueError


class Command(BaseCommand):
    help = "Ask about one field of every row whose other field is empty, and store the answer there."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("model", help="app.Model")
        parser.add_argument("source", help="field to ask about")
        parser.add_argument("target", help="field to fill")
        parser.add_argument("--template", default="{}", help="the prompt; {} is the value")

    def handle(self, *args: Any, **options: Any) -> None:
        rows = apps.get_model(options["model"])._default_manager.all()
        empty = rows.filter(**{options["target"]: ""}).values_list("pk", options["source"])
        failed = 0
        with GroqQueue(model="llama-3.1-8b-instant") as queue:
            asked: dict[Future[Completion], Any] = {
                queue.submit(options["template"].replace("{}", value), max_completion_tokens=100): pk
                for pk, value in empty.iterator()
            }
            for future in as_completed(asked):
                try:
                    text = future.result().text
                except GroqQueueError as error:
                    failed += 1
                    self.stderr.write(f"row {asked[future]}: {error}")
                else:
                    rows.filter(pk=asked[future]).update(**{options["target"]: text})
        self.stdout.write(f"{len(asked) - failed} of {len(asked)} rows filled")
        if failed:
            raise CommandError(f"{failed} rows failed; run it again for these")
