"""Names what new pictures show, by the network of a run: `python predict.py --help` tells more."""

from flags.commands.predict import main

if __name__ == "__main__":
    main()
