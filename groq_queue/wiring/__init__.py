"""Builds a queue: holds the table of options, checks the settings and joins the rooms.

Engine, transport, journal and limiters do not import each other; they are joined here.
``api`` is what users see of it.
"""
