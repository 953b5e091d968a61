"""From the command line to a checked spec, or to one sentence that says why there is none."""
