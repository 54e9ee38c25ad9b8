"""``make bench`` is `run`; `images` holds the benchmarks of chapters 5 and 6, `figure` one measured promise."""
