"""Search batch size and learning rate together, with keras-tuner's tuners."""
