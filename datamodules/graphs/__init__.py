"""Directed acyclic graphs and what their nodes do: drawn with their truth, or recorded. W[i, j] is the edge i -> j."""
