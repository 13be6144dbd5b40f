"""Video clips from frame folders, video files or moving photographs, and noise extracted from clips."""
