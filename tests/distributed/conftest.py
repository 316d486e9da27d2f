"""A Redis and workers for the tests of this folder; see ``tests/fleet.py``."""

from fleet import fleet, one_server, server

__all__ = ["fleet", "one_server", "server"]
