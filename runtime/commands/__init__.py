"""What the command line does beside one episode: evaluate, plan from a recording, end with the right exit code."""
