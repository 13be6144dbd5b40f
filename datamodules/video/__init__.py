"""Video clips from frame folders, video files or moving photographs, and noise that is extracted from clips."""
