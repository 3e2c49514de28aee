"""`python -m medvision.cli`."""

from medvision.cli import main

main()
