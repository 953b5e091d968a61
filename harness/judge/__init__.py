"""What reports say about each other: repetitions as one, enough calls or too few, faster or slower."""
