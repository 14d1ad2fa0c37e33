"""`python -m dvgwm.runtime` is `dvgwm-runtime`."""

from .cli import main

main()
