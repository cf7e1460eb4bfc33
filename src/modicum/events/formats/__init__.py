"""One module a file format: bytes in, blocks of events out."""
