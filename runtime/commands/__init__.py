"""The command line, what it does beside one episode, and how it ends: with the right exit code, at any signal."""
