"""What the benchmarks share: servers in their own process, loads, ways to send, rounds and ratios."""
