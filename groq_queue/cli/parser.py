"""All that may be typed: the program's own page of help, and the commands in the order in which it lists them."""

from __future__ import annotations

from groq_queue import __version__
from groq_queue.cli import completion, demo, doctor, estimate, journal, report, run, simulate, worker
from groq_queue.cli.arguments import EXIT_CODES, Parser

_DESCRIPTION = "Send thousands of LLM requests and stay exactly at your rate limits."

_EPILOG = f"""\
start here:
  groq-queue demo                        see it work, no key needed
  groq-queue run prompts.txt --model llama-3.1-8b-instant -o answers.jsonl

The API key is read from the environment variable GROQ_API_KEY.

{EXIT_CODES}"""


def build_parser() -> Parser:
    """Return the parser of the whole command line; what it parses has the function to call as ``command``."""
    parser = Parser(prog="groq-queue", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"groq-queue {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands", required=True)
    for module in (demo, run, estimate, report, simulate, journal, worker, doctor, completion):
        module.add_to(commands)
    return parser
