"""Seeing and planning: what a load will take, how far it is, what became of it.

This room looks and never touches: it starts no request and changes no budget. It
asks the engine for snapshots, and the meters for prices.
"""

from __future__ import annotations
