"""From demonstrations to the weights that a bundle ships."""
