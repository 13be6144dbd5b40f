"""Images to restore: noisy ones with or without their clean ones, whole or in patches."""
