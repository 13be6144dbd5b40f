"""Images with one label per pixel."""
