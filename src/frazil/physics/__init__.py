"""Image formation: an image is the optics times the projection of a density in a pose, plus noise."""
