// The calculators of the pages: measure.budgets and measure.planner in JavaScript, and the forms that call them.
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

const MESSAGES = 0.8, MEMORY = 0.8, ATTENTION = 0.501, FLOAT8 = 1.511, MACHINE = 8;
const RECOMPUTED = { "none": 0, "selective": 1 / 3, "full": 1 };
const A100 = { peak: 312e12, memory: 2.039e12, nvlink: 300e9, network: 25e9, matrix: 0.685 };
const H100 = { peak: 989e12, memory: 3.35e12, nvlink: 450e9, network: 50e9, matrix: 0.656 };
const CARDS = {
  "H100": H100,
  "H100, 500 W": { ...H100, memory: 2.4e12, matrix: 0.487 },
  "H100, 2023": { ...H100, matrix: 0.511 },
  "H200": { ...H100, memory: 4.8e12 },
  "H800": { ...H100, nvlink: 200e9 },
  "A100": A100,
  "A100, 100 Gb/s a pair": { ...A100, network: 6.25e9 },
};

// The functions of Python's planner for models without experts, fully sharded, fused, and with FlashAttention.
const planner = {
  cards: ({ data, tensor, pipeline, context }) => data * tensor * pipeline * context,

  group: ({ data, context }) => data * context,

  micro_batches: ({ data, micro_batch }, batch) => batch / (data * micro_batch),

  all_parameters: (config) =>
    budgets.matrix_parameters(config) + (config.tied ? 0 : config.vocabulary * config.width),

  held_parameters: (config, { tensor, pipeline }) => planner.all_parameters(config) / tensor / pipeline,

  local_tokens: (config, layout, tokens) => tokens / planner.group(layout) * config.layers / layout.pipeline,

  state_bytes(config, layout) {
    const held = planner.held_parameters(config, layout);
    const share = planner.all_parameters(config) / planner.cards(layout);
    if (layout.pipeline > 1) return [2 * held, 4 * held, 12 * share];
    return [2 * (share + 2 * held / config.layers), 2 * share, 12 * share];
  },

  block_numbers(config, recompute) {
    const { width, hidden, gated } = config, kv = budgets.kv_width(config);
    return recompute === "selective" ? 4 * width + kv + hidden : 6 * width + 2 * kv + (gated ? 4 : 2) * hidden;
  },

  activation_bytes(config, layout, batch, sequence) {
    const { tensor, pipeline, context, micro_batch, virtual, recompute } = layout, full = recompute === "full";
    const stages = Math.min(pipeline, planner.micro_batches(layout, batch));
    const flying = stages + (virtual > 1 ? (stages - 1) / virtual : 0);
    const block = 2 * planner.block_numbers(config, recompute) / tensor;
    const kept = (full ? 2 * config.width / tensor : block) * config.layers / pipeline;
    const once = (full ? block : 0) + (tensor > 1 ? 6 * config.width : 0);
    const most = Math.max(flying * kept, kept + 10 * config.vocabulary / tensor);
    return micro_batch * sequence / context * (once + most);
  },

  matrix_seconds(config, card, layout, tokens) {
    const head = config.vocabulary * config.width, faster = layout.precision === "float8" ? FLOAT8 : 1;
    const blocks = (budgets.matrix_parameters(config) - head) * (3 + RECOMPUTED[layout.recompute]) / faster;
    return 2 * (blocks + 3 * head) * tokens / (card.matrix * card.peak * planner.cards(layout));
  },

  attention_seconds({ layers, width }, card, layout, tokens, sequence) {
    const passes = layout.recompute === "full" ? 4.5 : 3.5;
    const flops = passes * 4 * layers * width * sequence / 2 * tokens;
    return flops / (ATTENTION * card.matrix * card.peak * planner.cards(layout));
  },

  elementwise_seconds(config, card, layout, tokens) {
    const { layers, width, hidden, vocabulary, gated } = config, passes = layout.recompute === "none" ? 3 : 4;
    const numbers = 12 * width + 2 * budgets.kv_width(config) + (gated ? 3 : 2) * hidden;
    const moved = passes * layers * 2 * numbers + 24 * vocabulary;
    return moved * tokens / (MEMORY * card.memory * planner.cards(layout));
  },

  bandwidth(card, members, inner) {
    const inside = Math.max(1, Math.floor(MACHINE / inner));
    return MESSAGES * (members <= inside ? card.nvlink : Math.min(card.nvlink, inside * card.network));
  },

  tensor_seconds(config, card, layout, tokens) {
    const n = layout.tensor, times = layout.recompute === "full" ? 12 : 8;
    const moved = times * 2 * config.width * planner.local_tokens(config, layout, tokens);
    return budgets.ring_bytes("all-gather", moved, n) / planner.bandwidth(card, n, 1);
  },

  context_seconds(config, card, layout, tokens) {
    const n = layout.context, times = layout.recompute === "full" ? 4 : 3;
    const numbers = times * 2 * budgets.kv_width(config) / layout.tensor;
    const moved = 2 * numbers * planner.local_tokens(config, layout, tokens) * (n - 1);
    return moved / planner.bandwidth(card, n, layout.tensor);
  },

  sharding_seconds(config, card, layout, batch, hidden) {
    const n = planner.group(layout), times = planner.micro_batches(layout, batch), whole = layout.pipeline > 1;
    const size = (whole ? 6 : 8 * times) * planner.held_parameters(config, layout);
    const seconds = budgets.ring_bytes("all-gather", size, n) / planner.bandwidth(card, n, layout.tensor);
    return Math.max(0, seconds - hidden / (whole ? times : 1));
  },

  optimizer_seconds: (config, card, layout) =>
    30 * planner.all_parameters(config) / planner.cards(layout) / (MEMORY * card.memory),

  plan(config, card, layout, batch, sequence) {
    const tokens = batch * sequence, [weights, gradients, optimizer] = planner.state_bytes(config, layout);
    const matrix_seconds = planner.matrix_seconds(config, card, layout, tokens);
    const attention_seconds = planner.attention_seconds(config, card, layout, tokens, sequence);
    const elementwise_seconds = planner.elementwise_seconds(config, card, layout, tokens);
    const work = matrix_seconds + attention_seconds + elementwise_seconds;
    const beside = layout.overlapped ? matrix_seconds : 0;
    const tensor_seconds = Math.max(0, planner.tensor_seconds(config, card, layout, tokens) - beside);
    const context_seconds = Math.max(0, planner.context_seconds(config, card, layout, tokens) - beside);
    const waits = (layout.pipeline - 1) / (planner.micro_batches(layout, batch) * layout.virtual);
    return {
      weights, gradients, optimizer, activations: planner.activation_bytes(config, layout, batch, sequence),
      matrix_seconds, attention_seconds, elementwise_seconds, tensor_seconds, context_seconds,
      sharding_seconds: planner.sharding_seconds(config, card, layout, batch, work),
      bubble_seconds: waits * (work + tensor_seconds + context_seconds),
      optimizer_seconds: planner.optimizer_seconds(config, card, layout),
    };
  },
};

// What the form of a plan calls the seconds of its parts.
const SECONDS = {
  matrix_seconds: "products of matrices", attention_seconds: "attention", elementwise_seconds: "number by number",
  tensor_seconds: "tensor messages", context_seconds: "context messages", sharding_seconds: "sharding messages",
  bubble_seconds: "bubble of the pipeline", optimizer_seconds: "step of the optimizer",
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
  "plan"(v) {
    const card = CARDS[v.card], cards = planner.cards(v), tokens = v.batch * v.sequence;
    const { weights, gradients, optimizer, activations, ...parts } = planner.plan(v, card, v, v.batch, v.sequence);
    const bytes = { weights, gradients, optimizer, activations };
    const sum = (numbers) => Object.values(numbers).reduce((one, other) => one + other), seconds = sum(parts);
    const peak = 6 * budgets.matrix_parameters(v) * tokens / (seconds * cards * card.peak);
    return [
      ["cards", cards, (n) => n < 1e15 ? n.toLocaleString("en") : n.toExponential(3)],
      ...Object.entries(bytes).map(([name, size]) => [name, size, (n) => amount(n, "B")]),
      ["on each card", sum(bytes), (n) => amount(n, "B")],
      ...Object.entries(parts).map(([name, time]) => [SECONDS[name], time, duration]),
      ["a step", seconds, duration],
      ["tokens per second and card", tokens / seconds / cards, rounded],
      ["part of the peak in bf16", 100 * peak, (n) => `${rounded(n)} %`],
      ["the training", v.tokens / tokens * seconds, duration],
    ];
  },
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
function conflict({ layers, width, heads, kv_heads, positions, batch, sequence, ...layout }) {
  const { data, tensor, pipeline, context, micro_batch, virtual } = layout;
  if (width % heads) return "The heads share the width: it must be a multiple of their number.";
  if (heads % kv_heads) return "Heads share keys and values: their number must be a multiple of those with keys.";
  if (positions && sequence > positions) return `A sequence has ${positions} tokens at most, one for each row of the table of positions.`;
  if (heads % tensor) return "Tensor parallelism divides the heads: their number must be a multiple of it.";
  if (layers + 2 < pipeline * virtual) return `The pipeline divides the blocks: its stages times the virtual ones may be ${layers + 2} at most.`;
  if (batch % (data * micro_batch)) return "The copies divide the batch: it must be a multiple of their number times the micro-batch.";
  if (sequence % context) return "Context parallelism divides the sequences: their tokens must be a multiple of it.";
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
