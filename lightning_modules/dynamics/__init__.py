"""Methods that study training dynamics: the effects of gradient noise, batch size and learning rate."""
