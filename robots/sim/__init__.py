"""The simulated Galaxea A1 in MuJoCo."""
