"""The load test: the same work done by this pair and by its peers, side by side, through public entry points only."""
