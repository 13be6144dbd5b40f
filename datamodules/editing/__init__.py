"""Images to protect against editing, with masks of the regions that an editor keeps."""
