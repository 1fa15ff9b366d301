"""What can be measured about a model, one thing a file."""
