"""Image restoration: noisy images, with or without clean images, whole or in patches."""
