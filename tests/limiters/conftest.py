"""Budgets of every kind, for the contracts that all of them keep."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from organisation import OneProcess, Organisation
from stores import STORES, Store


@pytest.fixture(params=list(STORES))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A fresh store of each kind."""
    made = STORES[request.param](tmp_path)
    yield made
    made.close()


@pytest.fixture(params=["process", *STORES])
def organisation(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Organisation | OneProcess]:
    """An organisation on each kind of limiter."""
    if request.param == "process":
        alone = OneProcess()
        yield alone
        alone.close()
        return
    made = STORES[request.param](tmp_path)
    organisation = Organisation(made)
    yield organisation
    organisation.close()
    made.close()
