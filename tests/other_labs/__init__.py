"""Data sets, recordings and checkpoints as other labs make them: each is read right, or refused in one line."""
