"""Image pairs to interpolate between."""
