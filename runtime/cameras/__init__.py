"""Pictures in: recordings of any size and rate, fitted to what a bundle wants."""
