"""Counts each attempt in the journal before its first byte leaves."""

from __future__ import annotations

from groq_queue.clock import NS_PER_S
from groq_queue.core.budget import Lease
from groq_queue.core.request import Request
from groq_queue.engine.attempt import Disposition, Outcome
from groq_queue.engine.lane import Meter
from groq_queue.engine.log import log_fields
from groq_queue.engine.protocols import Attempts
from groq_queue.errors import JournalError
from groq_queue.journal import Journal
from groq_queue.logger import SafeLogger
from groq_queue.wiring.rows import drop_body, is_trouble, outcome_of

_log = SafeLogger("groq_queue")

_TRY_AGAIN_S = (1, 2, 4, 8, 16)  # waits while the file cannot be written: half a minute in all


class JournaledAttempts:
    """Runs attempts, each counted in the journal before it is sent.

    Args:
        attempts: Sends.
        journal: Counts.
        may_repeat: A request that a power cut took off its way may be sent again, so the disk need not be waited for.
    """

    def __init__(self, attempts: Attempts, journal: Journal, *, may_repeat: bool) -> None:
        self._attempts = attempts
        self._journal = journal
        self._may_repeat = may_repeat
        self._troubles: dict[int, int] = {}  # row: how often in a row the file could not be written; one worker each

    def attempt(self, request: Request, lease: Lease, meter: Meter) -> Outcome:
        """Claim the row, send, and let the row wait again if that is what the outcome says."""
        row_id = request.row_id
        if row_id is None:
            return self._attempts.attempt(request, lease, meter)
        try:
            if request.body is None:
                request.body = self._journal.payload(row_id)
            claimed = self._journal.claim(row_id, is_durable=not self._may_repeat)
            request.attempts = claimed - 1  # the runner counts this one
        except JournalError as error:
            meter.refund(lease)
            return self._not_sent(request, row_id, error)
        self._troubles.pop(row_id, None)
        outcome = self._attempts.attempt(request, lease, meter)
        if outcome.next not in (Disposition.DONE, Disposition.FAILED):
            self._release(row_id)
            drop_body(request)
        return outcome

    def _release(self, row_id: int) -> None:
        try:
            self._journal.release(row_id)
        except JournalError as error:
            _log.warning(
                "row %d of the journal stays marked as on its way, although its attempt has ended: %s",
                row_id,
                error,
                extra=log_fields("journal_trouble"),
            )

    def _not_sent(self, request: Request, row_id: int, error: JournalError) -> Outcome:
        """Say what becomes of a request that could not be claimed."""
        if not is_trouble(error):
            try:
                ended = outcome_of(self._journal.at(row_id))
            except JournalError:
                ended = None
            return ended or Outcome(Disposition.FAILED, error=error)
        tries = self._troubles[row_id] = self._troubles.get(row_id, 0) + 1
        if tries > len(_TRY_AGAIN_S):
            del self._troubles[row_id]
            return Outcome(Disposition.FAILED, error=error)
        wait_s = _TRY_AGAIN_S[tries - 1]
        _log.error(
            "%s is not sent, tried again in %d s: %s",
            request,
            wait_s,
            error,
            extra=log_fields("journal_trouble", request),
        )
        return Outcome(Disposition.RETRY, error=error, wait_ns=wait_s * NS_PER_S)
