"""Images: files, batches, pictures, metrics."""
