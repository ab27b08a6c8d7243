"""What a network computes, as a list of operations: read from Keras, simplified, kept in a file."""
