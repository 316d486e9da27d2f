"""The room that decides: what a request costs, whether it may pass, who is next, what a failure means.

Nothing here acts. There is no I/O, no thread, no lock and no clock; callers
pass the present instant in. Only the standard library and ``errors`` are imported.
"""
