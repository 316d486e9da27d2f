"""``python -m groq_queue``: the same as ``groq-queue``."""

from __future__ import annotations

import sys

from groq_queue.cli import main

if __name__ == "__main__":
    sys.exit(main())
