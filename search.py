"""Searches: an architecture, and then where sparse add-on neurons help: `python search.py --help` tells more."""

from flags.commands.search import main

if __name__ == "__main__":
    main()
