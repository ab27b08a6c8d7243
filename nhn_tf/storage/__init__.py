"""Nothing is lost: files that are whole or absent, one writer, checkpoints, signals that wait for a step."""
