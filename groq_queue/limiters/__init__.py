"""Where budgets are counted.

``in_process`` counts for the threads of this process. ``shared`` also asks a store that several processes share:
``sqlite`` for those of one host, ``redis`` for those of many. ``store`` says what every such store promises.
"""
