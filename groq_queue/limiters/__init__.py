"""Where budgets are counted.

``process`` counts for the threads of this process. ``shared`` asks a ledger, too, which several processes share:
``sqlite`` for those of one host, ``redis`` for those of many. ``ledger`` says what every store of them promises.
"""
