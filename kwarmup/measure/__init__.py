"""What is found by measuring: each verb trains somebody's model for a while and leaves it untouched."""
