"""Fitting and training of what the bundles ship."""
