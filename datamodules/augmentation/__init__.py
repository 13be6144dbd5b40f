"""Image augmentation on the CPU (host) and on the device of the batch.

The same code computes geometry and colours in both cases.
"""
