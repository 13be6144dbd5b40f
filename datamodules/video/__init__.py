"""Clips of videos: frames in folders, video files, moving photographs, and the noise that is cut out of them."""
