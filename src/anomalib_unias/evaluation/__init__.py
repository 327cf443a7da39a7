"""What the scores of a test say beyond averages: error rates with intervals, sizes of defects, runs compared, shift."""
