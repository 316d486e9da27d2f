"""A Redis and workers for the tests of this folder; see ``tests/worker_fleet.py``."""

from worker_fleet import fleet, one_server, server

__all__ = ["fleet", "one_server", "server"]
