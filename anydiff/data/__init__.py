"""Data: files in, batches out. Each module ends in an `unpack(batch) -> (x, space, cond)`."""
