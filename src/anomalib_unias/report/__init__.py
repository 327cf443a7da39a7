"""The report of a test for people: pages and pictures from the results of an evaluator."""

from anomalib_unias.report.callback import EvaluationReport

__all__ = ["EvaluationReport"]
