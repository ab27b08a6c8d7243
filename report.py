"""Reports on a run, finished or not: `python report.py --help` tells more."""

from flags.commands.report import main

if __name__ == "__main__":
    main()
