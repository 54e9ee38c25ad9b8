// The calculators of the pages: bigmodel_helpers.measure.budgets in JavaScript, and the forms that call it.
"use strict";

const WEIGHTS = { "fp32": 4, "bf16 mixed": 2, "bf16": 2 };
const MASTER_WEIGHTS = { "fp32": 0, "bf16 mixed": 4, "bf16": 0 };
const STATE_NUMBERS = { "SGD": 0, "SGD with momentum": 1, "AdamW": 2, "8-bit AdamW": 2 };
const PASSES = { "all-reduce": 2, "all-gather": 1, "reduce-scatter": 1 };

// The functions have the names of those in Python, and the same results: tests/book/test_calculators.py compares them.
const budgets = {
  kv_width: ({ width, heads, kv_heads }) => Math.floor(width * kv_heads / heads),

  matrix_parameters(config) {
    const { layers, width, hidden, vocabulary, gated } = config;
    const attention = 2 * width ** 2 + 2 * width * budgets.kv_width(config);
    return layers * (attention + (gated ? 3 : 2) * width * hidden) + vocabulary * width;
  },

  parameters(config) {
    const { layers, width, hidden, vocabulary, positions, bias, gated, tied } = config;
    const biases = layers * (3 * width + 2 * budgets.kv_width(config) + (gated ? 2 : 1) * hidden);
    const norms = (2 * layers + 1) * width * (bias ? 2 : 1);
    const embeddings = positions * width + (tied ? 0 : vocabulary * width);
    return budgets.matrix_parameters(config) + (bias ? biases : 0) + norms + embeddings;
  },

  forward_flops: (config, tokens) =>
    2 * budgets.matrix_parameters(config) + 4 * config.layers * tokens * config.width,

  training_flops: (config, tokens) => 3 * budgets.forward_flops(config, tokens),

  activation_bytes(config, tokens, precision, checkpoint) {
    const { layers, width, hidden, vocabulary, gated } = config;
    const block = 6 * width + 2 * budgets.kv_width(config) + (gated ? 4 : 2) * hidden;
    const blocks = checkpoint ? layers * width + block : layers * block;
    return tokens * (WEIGHTS[precision] * (blocks + 2 * width) + 4 * vocabulary);
  },

  training_memory(parameters, activations, precision, optimizer, devices) {
    const bytes = optimizer.startsWith("8-bit") ? 1 + 4 / 256 : precision === "bf16" ? 2 : 4;
    const share = parameters / devices;
    return {
      weights: WEIGHTS[precision] * share,
      gradients: WEIGHTS[precision] * share,
      optimizer: (MASTER_WEIGHTS[precision] + STATE_NUMBERS[optimizer] * bytes) * share,
      activations,
    };
  },

  training_days: (parameters, tokens, peak, devices, utilization) =>
    6 * parameters * tokens / (peak * devices * utilization) / 86_400,

  ring_bytes: (collective, size, ranks) => PASSES[collective] * (ranks - 1) / ranks * size,

  pipeline_bubble: (stages, micro_batches) => (stages - 1) / (micro_batches + stages - 1),
};

const rounded = (value) => value.toLocaleString("en", { maximumSignificantDigits: 4 });

function amount(value, unit) {
  if (value >= 1e21) return `${value.toExponential(3)} ${unit}`;
  const step = Math.max(0, Math.floor(Math.log10(value) / 3 + 1e-9));
  return `${rounded(value / 1000 ** step)} ${["", "k", "M", "G", "T", "P", "E"][step]}${unit}`;
}

function duration(seconds) {
  const units = [["days", 86_400], ["hours", 3600], ["minutes", 60], ["seconds", 1], ["ms", 1e-3]];
  const [name, size] = units.find((unit) => seconds >= unit[1]) ?? ["µs", 1e-6];
  const value = seconds / size;
  return `${value < 1e12 ? rounded(value) : value.toExponential(3)} ${name}`;
}

// What each form says, from its values in bytes, FLOPs and seconds: pairs of a name and a number, with its unit.
const RESULTS = {
  "training-memory"(v) {
    const tokens = v.batch * v.sequence, count = budgets.parameters(v);
    const activations = budgets.activation_bytes(v, tokens, v.precision, v.checkpoint);
    const memory = budgets.training_memory(count, activations, v.precision, v.optimizer, v.devices);
    const total = Object.values(memory).reduce((sum, bytes) => sum + bytes);
    return [
      ["parameters", count, (n) => n < 1e15 ? n.toLocaleString("en") : n.toExponential(3)],
      ["training, per token", budgets.training_flops(v, v.sequence), (n) => amount(n, "FLOP")],
      ...Object.entries(memory).map(([name, bytes]) => [name, bytes, (n) => amount(n, "B")]),
      ["on each device", total, (n) => amount(n, "B")],
    ];
  },
  "training-time": (v) => [
    ["computing", 6 * v.parameters * v.tokens, (n) => amount(n, "FLOP")],
    ["time", 86_400 * budgets.training_days(v.parameters, v.tokens, v.peak, v.devices, v.utilization), duration],
  ],
  "ring"(v) {
    const bytes = budgets.ring_bytes(v.collective, v.size, v.ranks);
    return [["each rank sends", bytes, (n) => amount(n, "B")], ["time on the network", bytes / v.bandwidth, duration]];
  },
  "pipeline": (v) => [["idle", 100 * budgets.pipeline_bubble(v.stages, v.micro_batches), (n) => `${rounded(n)} %`]],
};

// What is wrong with a field, in words.
function problem({ value, labels, dataset: { whole, least, most } }) {
  const number = /^\s*\+?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*$/i.test(value) ? Number(value) : NaN;
  const low = whole ? number < least || !Number.isInteger(number) : !(number > least);
  if (Number.isFinite(number) && !low && !(most && number > most)) return "";
  const kind = whole ? `a whole number, at least ${least}` : `a number above ${least}`;
  const limit = most ? `, at most ${most}` : "";
  const comma = value.includes(",") ? " (8000 without a comma, 1.5 with a point)" : "";
  return `${labels[0].textContent.trim()}: write ${kind}${limit}${comma}.`;
}

function read(field) {
  if (field.type === "checkbox") return field.checked;
  return field.type === "text" ? Number(field.value) * field.dataset.times : field.value;
}

// What is wrong with the values together, in words.
function conflict({ width, heads, kv_heads, positions, sequence }) {
  if (width % heads) return "The heads share the width: it must be a multiple of their number.";
  if (heads % kv_heads) return "Heads share keys and values: their number must be a multiple of those with keys.";
  if (positions && sequence > positions) return `A sequence has ${positions} tokens at most, one for each row of the table of positions.`;
  return "";
}

function calculate(form) {
  const fields = [...form.querySelectorAll("[name]")];
  const values = Object.fromEntries(fields.map((field) => [field.name, read(field)]));
  const problems = fields.filter((field) => field.type === "text").map((field) => {
    const told = problem(field);
    field.setAttribute("aria-invalid", told !== "");
    return told;
  }).filter(Boolean);
  if (!problems.length && conflict(values)) problems.push(conflict(values));
  const results = problems.length ? [] : RESULTS[form.dataset.calculator](values);
  if (!results.every((result) => Number.isFinite(result[1]))) problems.push("This is too large to compute: take less.");
  const lines = problems.length ? problems : results.map(([name, value, write]) => `${name}: ${write(value)}`);
  const output = form.querySelector("output");
  output.classList.toggle("impossible", problems.length > 0);
  output.replaceChildren(...lines.map((line) => {
    return Object.assign(document.createElement("span"), { textContent: line });
  }));
}

function fill(form, preset) {
  for (const [name, value] of Object.entries(preset)) {
    const field = form.elements[name];
    if (field.type === "checkbox") field.checked = value; else field.value = value;
  }
}

document.addEventListener("DOMContentLoaded", () => document.querySelectorAll("form.calculator").forEach((form) => {
  const presets = form.querySelector("select.presets");
  presets?.addEventListener("change", () => { if (presets.value) fill(form, JSON.parse(presets.value)); });
  form.addEventListener("input", (event) => {
    if (presets && event.target.name in JSON.parse(presets.options[1].value)) presets.value = "";
  });
  for (const event of ["input", "change"]) form.addEventListener(event, () => calculate(form));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  calculate(form);
}));
