"""Which arguments of ``GroqQueue`` are not the submitting process's to decide when workers elsewhere send."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from groq_queue.core.validation import check_text
from groq_queue.errors import ConfigurationError
from groq_queue.transport import MAX_RESPONSE_BYTES, resolve_base_url

_ON_WORKERS = "the workers decide; use"
UNSUPPORTED_WITH_CELERY: dict[str, tuple[Any, str]] = {  # argument -> its default, and the cure
    "journal": (None, "requests stand in Redis already: leave it out, and let Redis write its data (appendonly yes)"),
    "session": (None, "a session cannot travel: leave it out, workers read proxies and certificates as curl does"),
    "observer": (None, "attempts are made elsewhere: leave it out, use callbacks here and the log of the workers"),
    "accounts": (None, "keys do not travel: leave it out, and start workers with GROQ_API_KEY and GROQ_BASE_URL"),
    "limits": (None, f"{_ON_WORKERS} groq-queue worker --rpm, --rpd, --tpm, --tpd"),
    "organization": (None, f"{_ON_WORKERS} groq-queue worker --organization"),
    "limiter": (None, f"{_ON_WORKERS} groq-queue worker --limiter"),
    "on_outage": ("wait", f"{_ON_WORKERS} groq-queue worker --on-outage"),
    "timeout": ((5, 60), f"{_ON_WORKERS} groq-queue worker --timeout"),
    "max_retries": (5, f"{_ON_WORKERS} groq-queue worker --max-retries"),
    "max_response_bytes": (MAX_RESPONSE_BYTES, "it is the workers that read answers: leave it out"),
    "margin": (0.0, f"{_ON_WORKERS} groq-queue worker --margin"),
    "on_daily_limit": ("raise", f"{_ON_WORKERS} groq-queue worker --on-daily-limit"),
    "max_concurrency": (None, f"{_ON_WORKERS} groq-queue worker --lanes"),
    "ageing": (None, "order is strict between lanes: leave it out; each lane has threads of its own"),
    "max_cost": (None, "nobody counts the cost of all workers: leave it out, or set a spend limit at the provider"),
}


def refuse_what_workers_decide(given: Mapping[str, Any]) -> None:
    """Check that the arguments go together with the engine.

    Raises:
        ConfigurationError: One does not; the message names it and the cure.
    """
    if given["engine"] is None:
        for field in ("broker", "state"):
            if given[field] is not None:
                raise ConfigurationError(f'{field}: only an engine has one; add engine="celery" or leave it out')
        return
    for field, (usual, cure) in UNSUPPORTED_WITH_CELERY.items():
        if given.get(field, usual) != usual:
            raise ConfigurationError(f"{field}: with engine={given['engine']!r} {cure}")
    if given["when_full"] == "shed":
        raise ConfigurationError(
            f"when_full='shed': with engine={given['engine']!r} nobody knows what all others have waiting; "
            "use 'block' or 'raise'"
        )


def base_url_of(given: Mapping[str, Any]) -> str | None:
    """Return the address that requests may be sent to only, or None if none was given."""
    base_url = check_text("base_url", given["base_url"], optional=True)
    return None if base_url is None else resolve_base_url(base_url, allow_http=given["allow_http"])
