"""Methods that learn to denoise. Most of these methods need no clean images."""
