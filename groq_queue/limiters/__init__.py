"""Where budgets are counted. ``process`` counts for the threads of this process."""
