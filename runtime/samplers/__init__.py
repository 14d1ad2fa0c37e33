"""Every sampler as data: its settings, its noise grid, its rows of coefficients."""
