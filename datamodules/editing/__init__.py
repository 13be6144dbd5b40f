"""Images for editing, with the regions that an editor keeps."""
