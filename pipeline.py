"""Makes a network for a data set, and reports on it: `python pipeline.py --help` tells more."""

from flags.commands.pipeline import main

if __name__ == "__main__":
    main()
