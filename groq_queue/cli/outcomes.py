"""What an error means for a whole run: whether it ends it, with which words and which exit code."""

from __future__ import annotations

from groq_queue.cli import Exit, UsageError
from groq_queue.core.retry import Meaning, meaning_of
from groq_queue.errors import (
    APIStatusError,
    AuthenticationError,
    ConfigurationError,
    CostLimitReached,
    DailyLimitReached,
    GroqQueueError,
    JournalError,
    LimiterUnavailable,
    excerpt,
)


def stops(error: BaseException) -> bool:
    """Whether every other request would fail by *error* too."""
    if isinstance(error, (DailyLimitReached, CostLimitReached, AuthenticationError, JournalError, LimiterUnavailable)):
        return True
    return isinstance(error, APIStatusError) and meaning_of(error.status_code, error.body)[0] is Meaning.STOP


def exit_code_of(error: BaseException | None, failed: int) -> Exit:
    """Return with what a run ends that *error* stopped, or nothing did, after *failed* lines failed."""
    if isinstance(error, BrokenPipeError):
        return Exit.SOME_FAILED
    if isinstance(error, (OSError, UsageError, JournalError, LimiterUnavailable)):
        return Exit.USAGE
    if isinstance(error, (DailyLimitReached, CostLimitReached)) or _is_spend_limit(error):
        return Exit.LIMIT
    if isinstance(error, (APIStatusError, ConfigurationError)):
        return Exit.CONFIGURATION
    return Exit.SOME_FAILED if failed or error is not None else Exit.DONE


def reason(error: BaseException) -> str:
    """Return why a run was stopped, and what to do, on one line."""
    if isinstance(error, OSError):
        return f"cannot write {error.filename}: {error.strerror or error}"
    if isinstance(error, AuthenticationError):
        return f"{error}: check GROQ_API_KEY"
    if isinstance(error, DailyLimitReached) and error.resets_in is not None:
        return f"{error} (fits again in {error.resets_in:,.0f} s)"
    if isinstance(error, (JournalError, LimiterUnavailable)):
        return str(error)  # its cure stands at its end
    return excerpt(str(error)) if isinstance(error, (GroqQueueError, UsageError)) else repr(error)


def bad_code(error: GroqQueueError) -> str:
    """Return the code of a line that could not become a request."""
    if isinstance(error, JournalError):
        return "custom_id_taken"
    return "invalid_line" if isinstance(error, ConfigurationError) else "request_too_large"


def _is_spend_limit(error: BaseException | None) -> bool:
    """Whether the account's own spend limit stops it; the same codes as in ``core.retry``."""
    body = error.body if isinstance(error, APIStatusError) else None
    told = body.get("error") if isinstance(body, dict) else None
    return isinstance(told, dict) and str(told.get("code") or "").startswith("spend_")
