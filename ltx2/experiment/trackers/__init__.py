"""Where the steps, metrics and media of runs are sent."""
