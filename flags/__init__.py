"""Command-line flags: generated from the configuration dataclasses, turned back into configurations."""
