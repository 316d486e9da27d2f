"""Which store of shared budgets an address means."""

from __future__ import annotations

from importlib import import_module

from groq_queue.clock import Clock
from groq_queue.errors import ConfigurationError, safe_repr
from groq_queue.limiters.store import BudgetStore

SCHEMES = ("sqlite", "redis", "rediss")


def check_address(limiter: object) -> str:
    """Return *limiter* if it may be the address of a store.

    Raises:
        ConfigurationError: It is none. Never repeats a password.
    """
    if isinstance(limiter, str) and limiter.partition(":")[0] in SCHEMES:
        return limiter
    bare = limiter.rpartition("@")[2] if isinstance(limiter, str) else limiter  # a password stands before the @
    raise ConfigurationError(
        f'limiter={safe_repr(bare)}: use None for this process, "sqlite:///path" for this host, '
        'or "redis://host/0?scope=name" for many hosts'
    )


def open_store(address: str, clock: Clock) -> BudgetStore:
    """Open the store at *address*.

    Raises:
        ConfigurationError: It is no address.
        MissingExtraError: It needs a package that is not installed.
        LimiterUnavailable: It cannot be used.
    """
    if check_address(address).startswith("sqlite:"):
        from groq_queue.limiters.sqlite import SqliteBudgetStore

        return SqliteBudgetStore.open(address, clock)
    module = import_module("groq_queue.limiters.redis")
    store: BudgetStore = module.RedisBudgetStore.open(address)
    return store
