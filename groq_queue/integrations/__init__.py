"""Adapters to other people's libraries; each module imports its extra when it is used, not before."""
