"""Video clips: frame folders, video files, moving photographs, and noise extracted from them."""
