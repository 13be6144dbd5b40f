"""Images with captions, for text-to-image models and unconditional ones."""
