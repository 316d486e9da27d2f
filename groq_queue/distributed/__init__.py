"""A queue that several processes and hosts work on: Celery wakes the workers, Redis keeps the requests.

* ``codec``: a request and its outcome as JSON, the form in which both travel;
* ``job_store`` and ``lua/``: the status of each request, in Redis, changed by Lua scripts only;
* ``wakeups``: the Celery app whose messages are wake-up calls, one for each request accepted;
* ``celery_engine``, ``submitted`` and ``replies``: the submitting process;
* ``worker`` and ``celery_worker``: the process that sends.

A message names no request. A worker that gets one asks the store for the request that is next by priority and by
its client's turn. So a message that comes twice finds another request or none, one that is lost is sent again by
the next sweep, and order, cancellation and fairness do not depend on what the broker can do.

No key, callable or pickle travels. Retries, budgets and errors are those of the embedded engine in each worker.
"""
