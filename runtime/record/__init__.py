"""Data sets and session logs: episodes as LeRobot data sets (parquet and mp4)."""
