"""Who pays: which key goes to which address for which model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from groq_queue.errors import ConfigurationError, safe_repr
from groq_queue.transport import Secret, resolve_base_url

_DEFAULT_BASE_URL = "https://api.groq.com"


class Account(NamedTuple):
    """A key and the address it is sent to.

    Attributes:
        payer: Names who pays: an organisation, or the fingerprint of the key.
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
        where = url if url is not None else os.environ.get("GROQ_BASE_URL") or _DEFAULT_BASE_URL
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
