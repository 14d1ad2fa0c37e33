"""Engine libraries, one file each."""
