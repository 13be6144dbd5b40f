"""Shared drawing code of callbacks: image grids and curves."""
