"""What long tests need of a trainer: single images of the test set, and a directory for results."""
