"""Runs of a comparison on the processes, nodes or cluster that there are."""
