"""Images with surface normals: datasets, and their DataModule."""
