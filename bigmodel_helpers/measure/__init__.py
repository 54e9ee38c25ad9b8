"""Parameters, FLOPs, memory and time: what a model costs, measured or worked out first (`budgets`, `planner`)."""

from bigmodel_helpers.measure import budgets, planner
from bigmodel_helpers.measure.counting import flops, parameters
from bigmodel_helpers.measure.memory import peak_memory
from bigmodel_helpers.measure.roofline import Roofline, bandwidth, peak_flops
from bigmodel_helpers.measure.timing import Rate, Ratio, Stopwatch, Timing, compare, throughput, time_call

__all__ = [
    "Rate",
    "Ratio",
    "Roofline",
    "Stopwatch",
    "Timing",
    "bandwidth",
    "budgets",
    "compare",
    "flops",
    "parameters",
    "peak_flops",
    "peak_memory",
    "planner",
    "throughput",
    "time_call",
]
