"""Pure functions on image arrays: resize, color, pixel shuffle, convolution."""
