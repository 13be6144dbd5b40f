"""Directed acyclic graphs with synthetic or recorded observations of their nodes.

W[i, j] is the weight of edge i -> j.
"""
