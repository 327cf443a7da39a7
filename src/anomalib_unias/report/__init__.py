"""A report of a test run that people look at: pages and pictures from the results of an evaluator."""

from anomalib_unias.report.callback import EvaluationReport

__all__ = ["EvaluationReport"]
