"""Exports a run's network for other programs: `python export.py --help` tells more."""

from flags.commands.export import main

if __name__ == "__main__":
    main()
