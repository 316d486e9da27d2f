"""The accounts of one queue: which key goes to which address for which model, and who sends and counts for it.

``accounts_of`` checks what a user passed. ``AccountRouter`` gives each model's attempts and
budget to the account that serves it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from groq_queue.core.budget import Lease, Level
from groq_queue.core.request import Request
from groq_queue.engine import failures
from groq_queue.engine.attempt import Disposition, Outcome
from groq_queue.engine.lane import Meter
from groq_queue.engine.protocols import Attempts
from groq_queue.errors import ConfigurationError, GroqQueueError, safe_repr
from groq_queue.transport import Secret, resolve_base_url

DEFAULT_BASE_URL = "https://api.groq.com"


class Account(NamedTuple):
    """A key and the address it is sent to.

    Attributes:
        billing_id: Names who pays: an organisation, or the fingerprint of the key.
    """

    base_url: str
    key: Secret
    billing_id: str


class Accounts(NamedTuple):
    """The accounts of one queue.

    Attributes:
        default: Of models that ``by_model`` does not name, or None: there are no others.
        by_model: ``{model: Account}``, empty for most.
    """

    default: Account | None
    by_model: Mapping[str, Account]

    def all(self) -> Iterable[Account]:
        """Return each account once, the default first."""
        default = () if self.default is None else (self.default,)
        return dict.fromkeys((*default, *self.by_model.values()))

    @property
    def name(self) -> str:
        """What the budgets of all of them are stored under."""
        return " ".join(f"{account.base_url} {account.billing_id}" for account in self.all())

    @property
    def address(self) -> str:
        """What is shown of them."""
        addresses = list(dict.fromkeys(account.base_url for account in self.all()))
        return addresses[0] if len(addresses) == 1 else f"{len(addresses)} addresses"


def accounts_of(
    api_key: Any, base_url: Any, organization: str | None, accounts: Any, *, allow_http: bool = False
) -> Accounts:
    """Check what a user passed, and complete it from the environment.

    Where *accounts* are given, the environment makes no default: a model that is
    misspelt must not be sent to another provider than the one meant for it.

    Raises:
        ConfigurationError: There is no key, or something cannot be used. Never repeats a key.
    """

    def account(key: Any, url: Any, field: str, url_field: str) -> Account:
        secret = Secret(_key(key), field)
        where = url if url is not None else os.environ.get("GROQ_BASE_URL") or DEFAULT_BASE_URL
        try:
            resolved = resolve_base_url(where, allow_http=allow_http)
        except ConfigurationError as error:
            raise ConfigurationError(f"{url_field}{str(error).removeprefix('base_url')}") from None
        return Account(resolved, secret, organization or f"key {secret.fingerprint()}")

    by_model: dict[str, Account] = {}
    for model, pair in _checked(accounts).items():
        url, key = pair
        by_model[model] = account(key, url, f"accounts[{model!r}] key", f"accounts[{model!r}] base_url")
    is_default_meant = not by_model or api_key is not None or base_url is not None
    default = account(api_key, base_url, "api_key", "base_url") if is_default_meant else None
    return Accounts(default, by_model)


def _checked(accounts: Any) -> Mapping[str, tuple[Any, Any]]:
    if accounts is None:
        return {}
    if not isinstance(accounts, Mapping) or not accounts:
        raise ConfigurationError(
            f"accounts: a {type(accounts).__name__} of {_length(accounts)} entries; "
            "use {model: (base_url, api_key)}, or leave it out"
        )
    for model, pair in accounts.items():
        if not isinstance(model, str) or not model.strip():
            raise ConfigurationError(f"accounts: {safe_repr(model, 50)} is no name of a model")
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:  # its value may hold the key and is not shown
            raise ConfigurationError(
                f"accounts[{safe_repr(model, 50)}]: use a pair (base_url, api_key), either None for the environment's"
            )
    return accounts


def _length(value: Any) -> str:
    try:
        return str(len(value))
    except TypeError:
        return "no"


def _key(api_key: Any) -> Any:
    if api_key is not None:
        return api_key
    key = os.environ.get("GROQ_API_KEY")
    if not key:
        raise ConfigurationError(
            "api_key: none given and GROQ_API_KEY is not set; pass api_key=, set the variable, "
            "or try GroqQueue.simulated(), which needs none"
        )
    return key


class Limiter(Protocol):
    """Where the budgets of one account are counted; see ``limiters``."""

    def meter(self, lane: str, model: str) -> Meter: ...
    def levels(self, now_ns: int) -> dict[str, list[Level]]: ...
    def close(self, now_ns: int) -> None: ...


class AccountBackend:
    """One account: who sends for it and who counts for it.

    ``stopped_by`` is written by any worker and never unset; a late reader sends one more attempt, which fails alike.
    """

    def __init__(self, attempts: Attempts, limiter: Limiter) -> None:
        self.attempts = attempts
        self.limiter = limiter
        self.stopped_by: GroqQueueError | None = None


class AccountRouter:
    """Attempts and limiter at once, each by model.

    An error that stops a whole queue, such as a rejected key, stops here the models of its account only: their
    waiting requests fail with it unsent, the others go on.

    Args:
        by_model: The account of each model.
        default: Of models that are not named, or None: they are refused.
    """

    def __init__(self, by_model: Mapping[str, AccountBackend], default: AccountBackend | None) -> None:
        self._by_model = dict(by_model)
        self._default = default

    def attempt(self, request: Request, lease: Lease, meter: Meter) -> Outcome:
        """Run one attempt with the account of the request's model."""
        backend = self._backend(request.model)
        if backend.stopped_by is not None:
            meter.refund(lease)
            return Outcome(Disposition.FAILED, error=failures.of(request, backend.stopped_by))
        outcome = backend.attempts.attempt(request, lease, meter)
        if outcome.next is not Disposition.STOP_ALL:
            return outcome
        backend.stopped_by = outcome.error
        return outcome._replace(next=Disposition.FAILED)

    def meter(self, lane: str, model: str) -> Meter:
        """Return the one meter of *lane*.

        Raises:
            ConfigurationError: No account serves *model*.
        """
        return self._backend(model).limiter.meter(lane, model)

    def close(self, now_ns: int) -> None:
        """Withdraw this queue's limits from every account."""
        for backend in self._backends():
            backend.limiter.close(now_ns)

    def levels(self, now_ns: int) -> dict[str, list[Level]]:
        """Return every limit's present state, by lane.

        An account may have lanes that other queues of the process use; a lane counts only with the account that
        serves its model here.
        """
        return {
            lane: levels
            for backend in self._backends()
            for lane, levels in backend.limiter.levels(now_ns).items()
            if self._by_model.get(lane.partition(" (")[0], self._default) is backend
        }

    def _backends(self) -> set[AccountBackend]:
        found = (*self._by_model.values(), self._default)
        return {backend for backend in found if backend is not None}

    def _backend(self, model: str) -> AccountBackend:
        backend = self._by_model.get(model, self._default)
        if backend is None:
            known = ", ".join(sorted(self._by_model))
            raise ConfigurationError(
                f"model={model!r:.100}: no account serves it (known: {known}); add it to accounts, "
                "or give api_key for all others"
            )
        return backend
