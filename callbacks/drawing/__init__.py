"""The look of pictures that several callbacks draw: grids of images, and lines."""
