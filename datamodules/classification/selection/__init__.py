"""Which images of a dataset are used, in which order, and with which labels."""
