"""The whole core on a simulated clock."""
