"""`python -m dvgwm.training`: the same as `dvgwm-train`, also where nothing is installed."""

from .cli import main

main()
