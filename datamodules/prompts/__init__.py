"""Images with captions, for text-to-image and unconditional models."""
