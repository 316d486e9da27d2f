"""What makes a queue handy: map, columns, views, contexts, an Executor, shared calls, notebooks.

All of it uses ``submit``; nothing here knows about limits, lanes or the wire.
"""
