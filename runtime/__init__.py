"""The runtime on the robot PC: bundle in, action chunks out, without torch."""

__version__ = "0.1.0"
