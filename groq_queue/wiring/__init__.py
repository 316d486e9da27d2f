"""What is behind the front door: the table of options, settings checked, rooms joined.

Here meet the neighbours that do not know each other: engine, transport, journal and
limiters. ``api`` is what users see of it.
"""
