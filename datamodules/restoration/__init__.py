"""Image restoration: noisy images with or without clean ones, whole or in patches."""
