"""Images with captions, for models that make images of texts, and of images alone."""
