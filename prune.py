"""Prunes the 3x3 and 5x5 kernels of a trained network that learned nothing: `python prune.py --help` tells more."""

from flags.commands.prune import main

if __name__ == "__main__":
    main()
