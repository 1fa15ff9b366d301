"""A version of a trained model on disk: what is written, under which number, and how it is checked."""
