"""Nothing is lost: files that are whole or absent, one writer, checkpoints; and what a process finds around it."""
