"""Trains a network that a search has found: `python train.py --help` tells more."""

from flags.commands.train import main

if __name__ == "__main__":
    main()
