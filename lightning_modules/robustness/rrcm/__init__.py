"""rRCM: representations that agree along a diffusion trajectory, pre-trained and tuned for randomised smoothing."""
