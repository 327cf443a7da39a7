"""Models of this package, one folder each, laid out as in anomalib."""
