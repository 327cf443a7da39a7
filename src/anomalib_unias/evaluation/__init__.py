"""Analyses of a test beyond averages: error rates with intervals, defect sizes, comparison of runs, changed images."""
