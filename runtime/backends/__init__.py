"""Engine libraries behind one seam (`backend.py`), one file each, and what those in the host's memory share."""
