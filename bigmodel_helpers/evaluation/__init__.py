"""How good a model is, how sure that is, and whether another one is better."""

from bigmodel_helpers.evaluation.calibration import expected_calibration_error, fit_temperature, reliability
from bigmodel_helpers.evaluation.comparison import (
    Estimate,
    McNemar,
    VarianceSplit,
    bootstrap,
    examples_needed,
    holm,
    mcnemar,
    mean_difference,
    power,
    variance_split,
)
from bigmodel_helpers.evaluation.language import bits_per_byte, document_losses, pass_at_k, perplexity
from bigmodel_helpers.evaluation.metrics import (
    Proportion,
    accuracy,
    classification_report,
    confusion_matrix,
    most_confident_mistakes,
    per_class_accuracy,
    predict,
    top_k,
)
from bigmodel_helpers.evaluation.selective import risk_coverage, risk_coverage_area
from bigmodel_helpers.evaluation.transcripts import count_errors, edit_distance, error_rate

__all__ = [
    "Estimate",
    "McNemar",
    "Proportion",
    "VarianceSplit",
    "accuracy",
    "bits_per_byte",
    "bootstrap",
    "classification_report",
    "confusion_matrix",
    "count_errors",
    "document_losses",
    "edit_distance",
    "error_rate",
    "examples_needed",
    "expected_calibration_error",
    "fit_temperature",
    "holm",
    "mcnemar",
    "mean_difference",
    "most_confident_mistakes",
    "pass_at_k",
    "per_class_accuracy",
    "perplexity",
    "power",
    "predict",
    "reliability",
    "risk_coverage",
    "risk_coverage_area",
    "top_k",
    "variance_split",
]
