"""The room that waits: lanes, worker threads, timers and Futures.

The only room that starts threads. What to do is decided in ``core``; the wire is
``transport``. Decisions are made under the engine's lock; sending, settling and
calling back happen outside it.
"""
