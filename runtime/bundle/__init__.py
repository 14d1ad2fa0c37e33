"""A bundle: its manifest, its bytes on disk, the prompts stored in it and how their words become tokens."""
