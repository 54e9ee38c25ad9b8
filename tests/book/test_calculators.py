"""The calculators: in a browser they give what Python gives, and say in words what is impossible."""

import itertools
import random
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import bigmodel_calculator
import pytest
from bigmodel_calculator import CALCULATORS, MODELS, PLANS
from chapter_code import chapter_namespace
from chromium import running_chromium
from docutils.parsers.rst import DirectiveError
from playwright.sync_api import Page, expect
from test_browser import AXE

from bigmodel_helpers import models
from bigmodel_helpers.measure import budgets, planner

STATIC = Path(bigmodel_calculator.__file__).parents[1] / "static"
IMPOSSIBLE = [
    "",
    " ",
    "abc",
    "-1",
    "0",
    "1e999",
    "Infinity",
    "NaN",
    "1,5",
    "0x10",
    "1 2",
    "--1",
    "٣",
    "7B",
    "1e",
]


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """Open a page with all calculators and nothing else; no host can be reached."""
    forms = "".join(map(bigmodel_calculator.calculator_html, CALCULATORS))
    style = (STATIC / "calculator.css").read_text(encoding="utf-8")
    script = (STATIC / "calculator.js").read_text(encoding="utf-8")
    html = f"<!doctype html><html lang=en><title>Forms</title><style>{style}</style>"
    html += f"<script>{script}</script><body><article class=bd-article><h1>Forms</h1>{forms}</article>"
    with running_chromium() as browser:
        context = browser.new_context(viewport={"width": 390, "height": 844}, offline=True)
        page = context.new_page()
        page.set_content(html)
        yield page


@pytest.fixture(autouse=True)
def as_it_begins(page: Page) -> None:
    page.evaluate("document.querySelectorAll('form').forEach(form => (form.reset(), calculate(form)))")


def grid() -> list[tuple[str, list, float]]:
    """Return calls over a grid: the function of both languages, its arguments, and what Python returns."""
    days = chapter_namespace("01_concepts", ["ex-01-days-solution"], math=__import__("math"), check_days=bool)
    calls = []
    sizes = itertools.product(
        (1, 7, 96), (64, 8192), (1, 28672), (8, 32), (1, 8), (0, 1024), (False, True), (False, True)
    )
    for layers, width, hidden, heads, kv_heads, positions, bias, gated in sizes:
        size = {"layers": layers, "width": width, "hidden": hidden, "heads": heads, "kv_heads": kv_heads}
        size |= {"positions": positions, "bias": bias, "gated": gated, "tied": bias ^ gated}
        size["vocabulary"] = 50257
        config = models.TransformerConfig(**size)
        for name in ("parameters", "matrix_parameters"):
            calls.append((name, [size], getattr(budgets, name)(config)))
        for name, tokens in itertools.product(("forward_flops", "training_flops"), (1, 4097)):
            calls.append((name, [size, tokens], getattr(budgets, name)(config, tokens)))
        for precision, checkpoint in itertools.product(budgets.WEIGHTS, (False, True)):
            given = [4097, precision, checkpoint]
            calls.append(("activation_bytes", [size, *given], budgets.activation_bytes(config, *given)))
    for count, kept, precision, optimizer, devices in itertools.product(
        (1, 8_030_261_248, 10**13), (0, 1.5e9), budgets.WEIGHTS, budgets._STATE_NUMBERS, (1, 3, 64)
    ):
        memory = budgets.training_memory(
            count, kept, precision=precision, optimizer=optimizer, devices=devices
        )
        calls.append(("training_memory", [count, kept, precision, optimizer, devices], vars(memory)))
    for given in itertools.product(
        (1e6, 8e9, 1e13), (1e9, 15e12), (1e12, 1e15), (1, 7, 16384), (0.05, 0.4, 1.0)
    ):
        calls.append(("training_days", list(given), days["training_days"](*given)))
    for given in itertools.product(
        ("all-reduce", "all-gather", "reduce-scatter"), (1.0, 2e9), (1, 2, 3, 1000)
    ):
        calls.append(("ring_bytes", list(given), budgets.ring_bytes(*given)))
    for given in itertools.product((1, 2, 16), (1, 8, 1000)):
        calls.append(("pipeline_bubble", list(given), budgets.pipeline_bubble(*given)))
    return calls


def test_every_function_is_that_of_python_over_a_grid(page: Page) -> None:
    calls = grid()
    assert len(calls) > 200
    names = set(page.evaluate("Object.keys(budgets)"))
    assert names == {name for name, _, _ in calls} | {"kv_width"}
    found = page.evaluate(
        "calls => calls.map(([name, given]) => budgets[name](...given))", [call[:2] for call in calls]
    )
    for (name, given, expected), result in zip(calls, found, strict=True):
        assert result == pytest.approx(expected, rel=1e-12, abs=0), (name, given)


# --------------------------------------------------------------------------------------------- plans

SIZES = ("layers", "width", "hidden", "heads", "kv_heads", "vocabulary", "gated", "tied")
LAYOUT = {field.name for field in fields(planner.Layout)} & {*CALCULATORS["plan"].fields}
NO_EXPERTS = {"expert_seconds": 0.0}


def plans() -> Iterator[tuple[dict, str, dict, int, int]]:
    """Yield many random models, cards and layouts, each with a batch and sequences that it can divide."""
    pick = random.Random(0).choice
    for _ in range(600):
        heads, kv_heads, copies = pick((8, 64, 96)), pick((1, 8)), pick((1, 3, 8, 128))
        size = {
            "layers": pick((32, 70, 126)),
            "width": heads * pick((64, 128)),
            "hidden": pick((11008, 53248)),
        }
        size |= {"heads": heads, "kv_heads": kv_heads, "vocabulary": pick((32000, 250880))}
        size |= {"gated": pick((False, True)), "tied": pick((False, True))}
        layout = {
            "data": copies,
            "tensor": pick((1, 2, 8)),
            "pipeline": pick((1, 4, 16)),
            "virtual": pick((1, 2)),
        }
        layout |= {
            "context": pick((1, 2, 16)),
            "micro_batch": pick((1, 2)),
            "overlapped": pick((False, True)),
        }
        layout |= {"recompute": pick([*planner.RECOMPUTED]), "precision": pick(("bf16", "float8"))}
        batch = copies * layout["micro_batch"] * pick((1, 7, 16))
        yield size, pick([*planner.CARDS]), layout, batch, pick((2048, 131072))


def test_plans_are_those_of_python_for_many_random_layouts(page: Page) -> None:
    given = list(plans())
    code = (
        "all => all.map(([size, card, layout, ...rest]) => planner.plan(size, CARDS[card], layout, ...rest))"
    )
    seen = dict.fromkeys(vars(planner.Plan(*([0.0] * 13))), 0)
    for (size, card, layout, batch, sequence), found in zip(given, page.evaluate(code, given), strict=True):
        config = models.TransformerConfig(**size)
        plan = planner.plan(config, planner.CARDS[card], planner.Layout(**layout), batch, sequence)
        assert NO_EXPERTS | found == pytest.approx(vars(plan), rel=1e-9, abs=0), (size, card, layout)
        seen = {name: seen[name] + (value > 0) for name, value in vars(plan).items()}
    assert min(count for name, count in seen.items() if name not in NO_EXPERTS) > 50, seen


def test_every_function_of_a_plan_is_that_of_python(page: Page) -> None:
    calls, card, card_name = [], planner.CARDS["A100"], "A100"
    for size, _, given, batch, sequence in itertools.islice(plans(), 100):
        config, layout, tokens = models.TransformerConfig(**size), planner.Layout(**given), batch * sequence
        step = [size, card_name, given, tokens]
        for name in ("matrix_seconds", "tensor_seconds", "context_seconds"):
            calls.append((name, step, getattr(planner, name)(config, card, layout, tokens)))
        for name in ("attention_seconds", "elementwise_seconds"):
            value = getattr(planner, name)(config, card, layout, tokens, sequence)
            calls.append((name, [*step, sequence], value))
        value = planner.sharding_seconds(config, card, layout, batch, 0.01)
        calls.append(("sharding_seconds", [*step[:3], batch, 0.01], value))
        calls.append(("optimizer_seconds", step[:3], planner.optimizer_seconds(config, card, layout)))
        calls.append(("state_bytes", [size, given], planner.state_bytes(config, layout)))
        value = planner.activation_bytes(config, layout, batch, sequence)
        calls.append(("activation_bytes", [size, given, batch, sequence], value))
        for inner in (1, 2, 16):
            value = planner.bandwidth(card, layout.group, inner)
            calls.append(("bandwidth", [card_name, layout.group, inner], value))
        calls.append(("cards", [given], layout.cards))
        calls.append(("group", [given], layout.group))
        calls.append(("micro_batches", [given, batch], layout.micro_batches(batch)))
    names = {"plan", "all_parameters", "held_parameters", "local_tokens", "block_numbers"}
    assert set(page.evaluate("Object.keys(planner)")) == names | {name for name, _, _ in calls}
    code = "calls => calls.map(([name, given]) => planner[name](...given.map(one => CARDS[one] ?? one)))"
    results = page.evaluate(code, [call[:2] for call in calls])
    for (name, given, expected), found in zip(calls, results, strict=True):
        expected = list(expected) if isinstance(expected, tuple) else expected
        assert found == pytest.approx(expected, rel=1e-9, abs=0), (name, given)


def test_cards_constants_and_words_of_a_plan_are_those_of_python(page: Page) -> None:
    assert page.evaluate("CARDS") == {name: vars(card) for name, card in planner.CARDS.items()}
    assert page.evaluate("RECOMPUTED") == planner.RECOMPUTED
    for name in ("MESSAGES", "MEMORY", "ATTENTION", "FLOAT8"):
        assert page.evaluate(name) == getattr(planner, name)
    choices = {name: field.value for name, field in CALCULATORS["plan"].fields.items()}
    assert choices["card"] == tuple(planner.CARDS)
    assert choices["recompute"] == tuple(planner.RECOMPUTED)
    for precision in choices["precision"]:
        assert planner.Layout(precision=precision).precision == precision


@pytest.mark.parametrize("name", PLANS)
def test_the_choices_of_a_plan_are_published_runs(page: Page, name: str) -> None:
    values = PLANS[name]
    size = {key: values[key] for key in SIZES}
    layout = planner.Layout(**{key: value for key, value in values.items() if key in LAYOUT})
    known = [
        run
        for run in planner.published_runs()
        if run.config == models.TransformerConfig(**size)
        and replace(run.layout, sharding="full") == layout
        and (run.card, run.batch, run.sequence) == (values["card"], values["batch"], values["sequence"])
    ]
    assert len(known) == 1
    form = page.locator("#calculator-plan")
    form.get_by_label("begin with").select_option(name)
    plan, tokens = known[0].planned, values["batch"] * values["sequence"]
    assert result(page, "plan", "cards") == f"{layout.cards:,}"
    assert result(page, "plan", "on each card") == f"{plan.bytes / 1e9:.4g} GB"
    assert float(result(page, "plan", "a step").split()[0]) == pytest.approx(plan.seconds, rel=1e-3)
    speed = float(result(page, "plan", "tokens per second and card").replace(",", ""))
    assert speed == pytest.approx(tokens / plan.seconds / layout.cards, rel=1e-3)
    flops = 6 * budgets.matrix_parameters(known[0].config) * tokens
    peak = planner.CARDS[known[0].card].peak * layout.cards * plan.seconds
    assert float(result(page, "plan", "part of the peak in bf16").split()[0]) == pytest.approx(
        100 * flops / peak, rel=1e-3
    )


def test_a_plan_that_does_not_fit_is_said_in_words(page: Page) -> None:
    form = page.locator("#calculator-plan")
    before = form.locator("output").inner_text()
    for label, bad, told in (
        ("tensor parallel", "3", "must be a multiple of it"),
        ("virtual stages of a card", "9", "may be 128 at most"),
        ("sequences in a micro-batch", "3", "The copies divide the batch"),
        ("context parallel", "3", "Context parallelism divides the sequences"),
        ("heads with keys and values", "7", "must be a multiple"),
    ):
        good = form.get_by_label(label).input_value()
        form.get_by_label(label).fill(bad)
        expect(form.locator("output")).to_contain_text(told)
        form.get_by_label(label).fill(good)
    assert form.locator("output").inner_text() == before
    assert form.get_by_label("begin with").input_value() == ""


# ----------------------------------------------------------------------------------------- all forms


def test_choices_and_models_are_those_of_the_package_and_of_the_chapter() -> None:
    fields = CALCULATORS["training-memory"].fields
    assert set(fields["precision"].value) == set(budgets.WEIGHTS)
    assert set(fields["optimizer"].value) == set(budgets._STATE_NUMBERS)
    chapter = chapter_namespace("01_concepts", ["dims"], models=models)["MODELS"]
    assert {name: models.TransformerConfig(**size) for name, size in MODELS.items()} == chapter
    for name, billions in bigmodel_calculator.BILLIONS.items():
        assert round(billions * 1e9) == budgets.parameters(chapter[name])


def result(page: Page, name: str, line: str) -> str:
    """Return what a line of a calculator's result says."""
    text = page.locator(f"#calculator-{name} output").inner_text()
    return dict(part.split(": ", 1) for part in text.splitlines())[line]


def test_each_form_begins_with_what_its_line_of_python_returns(page: Page) -> None:
    names = {
        "budgets": budgets,
        "planner": planner,
        "models": models,
        "MODELS": {key: models.TransformerConfig(**size) for key, size in MODELS.items()},
    }
    python = {name: eval(calculator.python, names) for name, calculator in CALCULATORS.items()}
    assert result(page, "training-memory", "parameters") == "8,030,261,248"
    assert (
        result(page, "training-memory", "on each device") == f"{python['training-memory'].total / 1e9:.1f} GB"
    )
    assert result(page, "training-time", "time") == f"{python['training-time']:,.2f} days"
    assert result(page, "ring", "time on the network") == f"{python['ring'] * 1e3:.2f} ms"
    assert result(page, "pipeline", "idle") == f"{100 * python['pipeline']:.2f} %"
    assert page.locator("#calculator-plan .presets option:checked").inner_text() == "Llama 3 405B, Meta"
    assert result(page, "plan", "a step") == f"{python['plan'].seconds:.3f} seconds"
    assert result(page, "plan", "on each card") == f"{python['plan'].bytes / 1e9:.1f} GB"
    assert (
        result(page, "plan", "the training")
        == f"{15600e9 / 2048 / 8192 * python['plan'].seconds / 86400:.2f} days"
    )


def test_typing_and_choosing_change_the_result(page: Page) -> None:
    form = page.locator("#calculator-training-memory")
    assert form.locator(".presets option:checked").inner_text() == "Llama 3 8B"
    form.get_by_label("begin with").select_option("GPT-2 124M")
    assert result(page, "training-memory", "parameters") == "124,439,808"
    before = result(page, "training-memory", "on each device")
    form.get_by_label("activation checkpointing").press("Space")
    assert result(page, "training-memory", "on each device") != before
    form.get_by_label("layers").fill("13")
    assert result(page, "training-memory", "parameters") == "131,527,680"
    assert form.get_by_label("begin with").input_value() == ""
    page.locator("#calculator-ring").get_by_label("ranks").fill("1")
    assert result(page, "ring", "each rank sends") == "0 B"
    page.locator("#calculator-ring").get_by_label("collective").select_option("all-gather")
    page.locator("#calculator-ring").get_by_label("ranks").fill("2")
    assert result(page, "ring", "each rank sends") == "1 GB"
    page.locator("#calculator-ring").get_by_label("ranks").press("Enter")
    expect(page.locator("#calculator-ring output")).to_be_visible()


@pytest.mark.parametrize("name", CALCULATORS)
def test_what_is_impossible_is_said_in_words(page: Page, name: str) -> None:
    form = page.locator(f"#calculator-{name}")
    output, before = form.locator("output"), form.locator("output").inner_text()
    for field in form.locator("input[type=text]").all():
        good, label = field.input_value(), field.evaluate("e => e.labels[0].textContent.trim()")
        if not field.get_attribute("data-whole"):
            bad = IMPOSSIBLE
        else:
            bad = [*IMPOSSIBLE, "1.5", "1e-3"]
        for text in bad:
            if text == "0" and field.get_attribute("data-whole") and field.get_attribute("data-least") == "0":
                continue
            field.fill(text)
            assert re.match(
                rf"{re.escape(label)}: write a (whole )?number,? (above|at least) \d", output.inner_text()
            )
            assert field.get_attribute("aria-invalid") == "true"
        for text in ("1e300", "9" * 300):
            field.fill(text)
            assert not re.search("NaN|Infinity|∞|undefined", output.inner_text())
        field.fill(good)
        assert field.get_attribute("aria-invalid") == "false"
    assert output.inner_text() == before


def test_values_that_do_not_fit_each_other_are_said_in_words(page: Page) -> None:
    form = page.locator("#calculator-training-memory")
    form.get_by_label("width", exact=True).fill("4095")
    expect(form.locator("output")).to_have_text(re.compile("must be a multiple"))
    form.get_by_label("width", exact=True).fill("4096")
    form.get_by_label("heads with keys").fill("7")
    expect(form.locator("output")).to_have_text(re.compile("must be a multiple"))
    form.get_by_label("begin with").select_option("GPT-2 124M")
    expect(form.locator("output")).to_contain_text("124,439,808")
    form.get_by_label("tokens per sequence").fill("1025")
    expect(form.locator("output")).to_contain_text("1024 tokens at most")
    form.get_by_label("begin with").select_option("Llama 3 8B")  # has no table of positions
    expect(form.locator("output")).to_contain_text("8,030,261,248")
    page.locator("#calculator-training-time").get_by_label("part of the peak").fill("101")
    expect(page.locator("#calculator-training-time output")).to_contain_text("at most 100")


@pytest.mark.parametrize(("text", "shown"), [("1e300", "too large"), ("1e-300", "0")])
def test_very_large_and_very_small_numbers(page: Page, text: str, shown: str) -> None:
    form = page.locator("#calculator-training-time")
    for label in ("parameters", "tokens"):
        form.get_by_label(label, exact=False).fill(text)
    expect(form.locator("output")).to_contain_text(shown)


def test_forms_fit_a_phone_and_have_no_fault_of_access(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.add_script_tag(path=Path(__file__).parent / "axe" / "axe.min.js")
    assert page.evaluate(AXE, ["wcag2a", "wcag2aa", "wcag21aa"]) == []


@pytest.mark.parametrize("chapter", ["01_concepts", "07_distributed"])
def test_the_chapters_show_their_calculators(page: Page, built_book: Path, chapter: str) -> None:
    context = page.context.browser.new_context(offline=True)
    shown = context.new_page()
    shown.goto((built_book / "notebooks" / f"{chapter}.html").as_uri())
    forms = shown.locator("form.calculator")
    assert forms.count() == 2
    for form in forms.all():
        expect(form.locator("output span").first).to_be_visible()
    context.close()


def test_an_unknown_calculator_is_told_with_the_known_ones() -> None:
    form = bigmodel_calculator.CalculatorForm(
        "it", ["rings"], {}, [], 1, 0, "", None, SimpleNamespace(reporter=None)
    )
    with pytest.raises(DirectiveError) as error:
        form.run()
    assert error.value.msg == f"'rings' is no calculator: use {', '.join(CALCULATORS)}"
