"""What the operating system gives: files, cache, environment, progress, threads."""
