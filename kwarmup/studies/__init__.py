"""What the batch size does to a training: measured, judged, and shown."""
