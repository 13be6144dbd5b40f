"""Training itself: what gradients, batches and learning rates do to a network while it learns."""
