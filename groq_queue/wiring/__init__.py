"""What stands behind the front door: settings checked, rooms joined, requests made ready.

Here meet the neighbours that do not know each other: engine, transport, journal and
limiters. ``api`` is what users see of it.
"""
