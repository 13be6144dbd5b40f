"""Images that are edited, with the regions that an editor keeps."""
