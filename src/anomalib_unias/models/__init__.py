"""Models of this package, one folder per model, structured as in anomalib."""
