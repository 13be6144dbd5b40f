"""Methods that learn to denoise, most of them without clean images."""
