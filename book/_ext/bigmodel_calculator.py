"""The calculators of the pages: forms for `measure.budgets` and `planner` into which any value can be typed."""

import json
from dataclasses import dataclass
from html import escape

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


@dataclass(frozen=True)
class Field:
    """A field: for yes or no, for one of several words, or for a number in a unit that is worth `times`.

    A whole number may be `least`; any other is above 0.
    """

    label: str
    value: bool | tuple[str, ...] | int | float
    least: int = 1
    most: int | None = None
    times: float = 1

    def html(self, name: str) -> str:
        """Return the field with its label; `name` is that of its value in calculator.js."""
        label = escape(self.label)
        if isinstance(self.value, bool):
            checked = " checked" if self.value else ""
            return f'<label class="flag"><input type="checkbox" name="{name}"{checked}> {label}</label>'
        if isinstance(self.value, tuple):
            options = "".join(f"<option>{escape(option)}</option>" for option in self.value)
            return f'<label>{label} <select name="{name}">{options}</select></label>'
        whole = isinstance(self.value, int)
        data = f'data-whole="true" data-least="{self.least}"' if whole else 'data-least="0"'
        data += f' data-most="{self.most}"' if self.most else ""
        mode = "numeric" if whole else "decimal"
        start = f'inputmode="{mode}" name="{name}" value="{self.value:.12g}" data-times="{self.times}"'
        return f'<label>{label} <input type="text" {start} {data}></label>'


@dataclass(frozen=True)
class Calculator:
    """A form: its title, its fields by name, how Python computes what it begins with, and values to choose."""

    title: str
    fields: dict[str, Field]
    python: str
    presets: dict[str, dict[str, float | bool | str]] | None = None


GPT2 = {"vocabulary": 50257, "positions": 1024, "bias": True, "gated": False, "tied": True}
LLAMA3 = {"vocabulary": 128256, "positions": 0, "bias": False, "gated": True, "tied": False}
MODELS = {
    "Llama 3 8B": {"layers": 32, "width": 4096, "hidden": 14336, "heads": 32, "kv_heads": 8, **LLAMA3},
    "Llama 3 70B": {"layers": 80, "width": 8192, "hidden": 28672, "heads": 64, "kv_heads": 8, **LLAMA3},
    "GPT-2 124M": {"layers": 12, "width": 768, "hidden": 3072, "heads": 12, "kv_heads": 12, **GPT2},
    "GPT-2 1.5B": {"layers": 48, "width": 1600, "hidden": 6400, "heads": 25, "kv_heads": 25, **GPT2},
}
# Published runs of `planner.published_runs`, with what a form of `planner.plan` asks for.
GPT3 = {"vocabulary": 51200, "gated": False, "tied": True, "context": 1}
LLAMA3_PLAN = {"vocabulary": 128256, "gated": True, "tied": False, "context": 1}
TORCHTITAN = {
    **LLAMA3_PLAN,
    "card": "H100, 500 W",
    "pipeline": 1,
    "virtual": 1,
    "overlapped": False,
    "sequence": 8192,
}
PLANS = {
    "Llama 3 8B, torchtitan": {
        **{"layers": 32, "width": 4096, "hidden": 14336, "heads": 32, "kv_heads": 8, **TORCHTITAN},
        **{"data": 8, "tensor": 1, "micro_batch": 2, "batch": 16},
        **{"recompute": "selective", "precision": "bf16"},
    },
    "Llama 3 70B, torchtitan": {
        **{"layers": 80, "width": 8192, "hidden": 28672, "heads": 64, "kv_heads": 8, **TORCHTITAN},
        **{"data": 32, "tensor": 8, "micro_batch": 16, "batch": 512},
        **{"recompute": "full", "precision": "float8"},
    },
    "Llama 3 405B, Meta": {
        **{"layers": 126, "width": 16384, "hidden": 53248, "heads": 128, "kv_heads": 8, **LLAMA3_PLAN},
        **{"card": "H100", "data": 128, "tensor": 8, "pipeline": 16, "virtual": 8, "micro_batch": 1},
        **{"recompute": "none", "precision": "bf16", "overlapped": False, "batch": 2048, "sequence": 8192},
    },
    "GPT-3 175B, NVIDIA": {
        **{"layers": 96, "width": 12288, "hidden": 49152, "heads": 96, "kv_heads": 96, **GPT3},
        **{"card": "H100", "data": 16, "tensor": 4, "pipeline": 8, "virtual": 6, "micro_batch": 2},
        **{"recompute": "none", "precision": "float8", "overlapped": True, "batch": 2048, "sequence": 2048},
    },
}
CARDS = ("H100", "H100, 500 W", "H100, 2023", "H200", "H800", "A100", "A100, 100 Gb/s a pair")
BILLIONS = dict(zip(MODELS, (8.030261248, 70.553706496, 0.124439808, 1.5576112), strict=True))
CALCULATORS = {
    "training-memory": Calculator(
        "Parameters and memory for training",
        {
            "layers": Field("layers", 32),
            "width": Field("width", 4096),
            "hidden": Field("width inside the MLP", 14336),
            "heads": Field("heads", 32),
            "kv_heads": Field("heads with keys and values", 8),
            "vocabulary": Field("vocabulary", 128256),
            "positions": Field("table of positions (0 for none)", 0, least=0),
            "bias": Field("biases", False),
            "gated": Field("gated MLP", True),
            "tied": Field("tied ends", False),
            "precision": Field("precision", ("bf16 mixed", "fp32", "bf16")),
            "optimizer": Field("optimizer", ("AdamW", "8-bit AdamW", "SGD", "SGD with momentum")),
            "batch": Field("sequences per device", 1),
            "sequence": Field("tokens per sequence", 1024),
            "devices": Field("devices that share (full sharding)", 1),
            "checkpoint": Field("activation checkpointing", True),
        },
        'budgets.training_memory(budgets.parameters(MODELS["Llama 3 8B"]), '
        'budgets.activation_bytes(MODELS["Llama 3 8B"], 1 * 1024, checkpoint=True))',
        MODELS,
    ),
    "training-time": Calculator(
        "Time for training",
        {
            "parameters": Field("parameters, in billions", 8.0, times=1e9),
            "tokens": Field("tokens, in billions", 15000.0, times=1e9),
            "peak": Field("peak of a device, in TFLOP per second", 1000.0, times=1e12),
            "utilization": Field("part of the peak that is reached, in %", 40.0, most=100, times=0.01),
            "devices": Field("devices", 1000),
        },
        "6 * 8e9 * 15_000e9 / (1000e12 * 0.40 * 1000) / 86_400",
        {name: {"parameters": billions} for name, billions in BILLIONS.items()},
    ),
    "ring": Calculator(
        "Bytes and time of a collective",
        {
            "collective": Field("collective", ("all-reduce", "all-gather", "reduce-scatter")),
            "size": Field("size of the whole tensor, in GB", 2.0, times=1e9),
            "ranks": Field("ranks", 64),
            "bandwidth": Field("bandwidth of a rank, in GB per second", 50.0, times=1e9),
        },
        'budgets.ring_bytes("all-reduce", 2e9, 64) / 50e9',
    ),
    "pipeline": Calculator(
        "Bubble of a pipeline",
        {"stages": Field("stages", 4), "micro_batches": Field("micro-batches", 8)},
        "budgets.pipeline_bubble(4, 8)",
    ),
    "plan": Calculator(
        "Plan of a training step on many cards",
        {
            "layers": Field("layers", 126),
            "width": Field("width", 16384),
            "hidden": Field("width inside the MLP", 53248),
            "heads": Field("heads", 128),
            "kv_heads": Field("heads with keys and values", 8),
            "vocabulary": Field("vocabulary", 128256),
            "gated": Field("gated MLP", True),
            "tied": Field("tied ends", False),
            "card": Field("card", CARDS),
            "data": Field("data parallel (copies)", 128),
            "tensor": Field("tensor parallel", 8),
            "pipeline": Field("stages of the pipeline", 16),
            "context": Field("context parallel", 1),
            "micro_batch": Field("sequences in a micro-batch", 1),
            "virtual": Field("virtual stages of a card", 8),
            "recompute": Field("recomputation", ("none", "selective", "full")),
            "precision": Field("precision", ("bf16", "float8")),
            "overlapped": Field("overlapped messages", False),
            "batch": Field("sequences in the batch", 2048),
            "sequence": Field("tokens per sequence", 8192),
            "tokens": Field("tokens of the training, in billions", 15600.0, times=1e9),
        },
        "planner.plan(models.TransformerConfig(126, 16384, 53248, 128, 8, 128256), "
        'planner.CARDS["H100"], planner.Layout(128, 8, 16, virtual=8), 2048, 8192)',
        PLANS,
    ),
}


def presets_html(calculator: Calculator) -> str:
    """Return the choice of values to begin with; "your own numbers" where the form begins with none of them."""
    options = ""
    for name, values in (calculator.presets or {}).items():
        first = {key: calculator.fields[key].value for key in values}
        now = {key: value[0] if isinstance(value, tuple) else value for key, value in first.items()}
        chosen = " selected" if values == now else ""
        options += f'<option value="{escape(json.dumps(values))}"{chosen}>{escape(name)}</option>'
    start = '<label>begin with <select class="presets"><option value="">your own numbers</option>'
    return f"{start}{options}</select></label>" if options else ""


def calculator_html(name: str) -> str:
    """Return the form `name`; it is hidden until its script runs."""
    calculator = CALCULATORS[name]
    fields = presets_html(calculator) + "".join(field.html(key) for key, field in calculator.fields.items())
    return (
        f'<form class="calculator" id="calculator-{name}" data-calculator="{name}" autocomplete="off" hidden>'
        f"<fieldset><legend>{escape(calculator.title)}</legend>"
        f'<div class="fields">{fields}</div></fieldset><output aria-live="polite"></output></form>'
        f"<noscript><p>Here a form computes any value, with scripts switched on. In Python, for example: "
        f"<code>{escape(calculator.python)}</code></p></noscript>"
    )


class CalculatorForm(SphinxDirective):
    """``{bigmodel-calculator} ring``: a form that computes what any numbers give."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        if name not in CALCULATORS:
            raise self.error(f"{name!r} is no calculator: use {', '.join(CALCULATORS)}")
        return [nodes.raw("", calculator_html(name), format="html")]


def setup_calculator(app: Sphinx) -> None:
    """Register the directive and its files."""
    app.add_directive("bigmodel-calculator", CalculatorForm)
    app.add_css_file("calculator.css")
    app.add_js_file("calculator.js")
