"""Two implementations timed in turns, so that both see the same machine."""
