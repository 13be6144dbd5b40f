"""Drawing code that callbacks share: image grids and curves."""
