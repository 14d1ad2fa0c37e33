"""Triton kernels, each with a plain twin. Importing this package imports nothing else."""
