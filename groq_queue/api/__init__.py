"""What makes a queue handy: map, columns, views, contexts, an Executor, shared calls, notebooks.

All of it stands on ``submit``; nothing here knows about limits, lanes or the wire.
"""
