"""The report of make_model.py: a record for programs, and one page of HTML that needs nothing else."""

import shutil
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from model_stages import Facts, write

from bigmodel_helpers import measure, runtime
from bigmodel_helpers.models import Transformer

COSTS = ("seconds", "cpu_seconds", "attempts", "tokens", "tokens_per_second", "flops")
SHOWN = ("pretrained", "instructed", "reinforced", "in 4 bits")  # of the samples
TAUGHT = {"instruct": "instruction", "control": "instruction for longer", "reinforce": "reinforcement"}
LIMITS = "Knows seven small tasks, and code as text; what it says about anything else is made up."
STYLE = """:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;
padding:0 1rem}.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem;margin:1rem 0}
td,th{padding:.25rem .6rem;text-align:left;border-bottom:1px solid #8885;vertical-align:top}
svg{width:100%;height:auto}svg text{fill:currentColor;font-size:13px}
polyline{fill:none;stroke:#3b82c4;stroke-width:2}code{overflow-wrap:anywhere}"""


def record_of(profile: str, options: Facts, model: Transformer, facts: dict[str, Facts]) -> Facts:
    """Return all that the report tells."""
    of_text, measured = facts["tokenize"], facts["evaluate"]
    text = {name: of_text[name] for name in ("documents", "new_documents", "text_tokens", "bytes_per_token")}
    return {
        "title": "A language model that answers, made from nothing",
        "command": f"python book/launch/make_model.py --profile {profile}",
        **runtime.provenance(runtime.get_profile(profile), data=of_text["source"]).facts,
        "options": options,
        "parameters": measure.parameters(model),
        "text": text,
        "cost": {stage: {key: one[key] for key in COSTS if key in one} for stage, one in facts.items()},
        "bytes": facts["quantize"]["bytes"],
        **{name: measured[name] for name in ("board", "always_the_same", "differences", "samples")},
        "curves": {stage: one["history"] for stage, one in facts.items() if "history" in one},
    }


def interval(value: Iterable[float], scale: float = 100, digits: int = 1) -> str:
    """Write a number with its interval."""
    middle, low, high = (f"{scale * number:.{digits}f}" for number in value)
    return f"{middle} ({low} to {high})"


def table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return a table whose first column names the rows."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    lines = [[escape(str(cell)) for cell in row] for row in rows]
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in others)}</tr>'
        for first, *others in lines
    )
    scroll = '<div class="wide" tabindex="0" role="region" aria-label="table">'
    return f"{scroll}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def curve(history: list[Facts], name: str, title: str) -> str:
    """Draw one column of a history, with the ends of both axes."""
    points = [(row["step"], row[name]) for row in history]
    (first, last), (low, high) = ((min(part), max(part)) for part in zip(*points, strict=True))
    wide, tall = max(last - first, 1), (high - low) or 1.0
    line = " ".join(
        f"{50 + 540 * (x - first) / wide:.1f},{170 - 140 * (y - low) / tall:.1f}" for x, y in points
    )
    words = [(0, 34, f"{high:.2f}"), (0, 174, f"{low:.2f}"), (50, 195, f"step {first}"), (50, 14, title)]
    marks = "".join(f'<text x="{x}" y="{y}">{escape(text)}</text>' for x, y, text in words)
    marks += f'<text x="590" y="195" text-anchor="end">{last}</text>'
    told = escape(f"{title}: {points[0][1]:.2f} at step {first}, {points[-1][1]:.2f} at step {last}")
    return (
        f'<svg viewBox="0 0 600 200" role="img" aria-label="{told}">{marks}<polyline points="{line}"/></svg>'
    )


def page_of(record: Facts) -> str:
    """Return the record as HTML."""
    board, cost, curves = record["board"], record["cost"], record["curves"]
    rows = [
        [n, interval(r["bits"], 1, 2), interval(r["greedy"]), interval(r["drawn"])] for n, r in board.items()
    ]
    shares = [[n, *(f"{100 * share:.0f}" for share in r["by_task"].values())] for n, r in board.items()]
    forms = {
        "seconds": ",.0f",
        "cpu_seconds": ",.0f",
        "tokens": ",",
        "tokens_per_second": ",.0f",
        "flops": ".1e",
    }
    costs = [
        [n, *(f"{r[k]:{f}}" if k in r else "" for k, f in forms.items()), r["attempts"]]
        for n, r in cost.items()
    ]
    told = [
        [question, name, text[:90]]
        for question in record["samples"][SHOWN[0]]
        for name in SHOWN
        for text in [record["samples"][name][question]]
    ]
    names = ("profile", "device", "torch", "python", "platform", "date", "data", "command")
    minutes = sum(row["seconds"] for row in cost.values()) / 60
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{record['title']}</title><style>{STYLE}</style></head><body><main><h1>{record['title']}</h1>",
            f"<p>{record['parameters']:,} parameters, made in {minutes:.1f} minutes.</p>",
            "<h2>Board</h2>",
            table(["", "bits per byte of new code", "greedy, % right", "drawn, % right (pass@1)"], rows),
            "<p>Questions of the part <em>test</em> that nobody trained on, and 95 % intervals over questions and ",
            "documents. There was one training, so the intervals leave out its chance. One who always gives the ",
            f"most frequent answer of a task is right in {100 * record['always_the_same']:.1f} % of the cases.</p>",
            table(["difference", "points"], [[n, interval(one)] for n, one in record["differences"].items()]),
            "<h2>By task</h2>",
            table(["greedy, % right", *board["pretrained"]["by_task"]], shares),
            "<h2>Curves</h2>",
            curve(curves["pretrain"], "bits", "pretraining: bits per byte of new code"),
            *(
                curve(curves[name], "right", f"{words}: share of right answers when drawn, part valid")
                for name, words in TAUGHT.items()
            ),
            "<h2>Samples</h2><p>The first question of each task in the test, and two that are no task: always the ",
            "likeliest answer, its first 90 characters.</p>",
            table(["asked", "model", "answer"], told),
            "<h2>Cost</h2><p>Seconds are those of the last attempt.</p>",
            table(["stage", "seconds", "CPU seconds", "tokens", "tokens/s", "FLOPs", "attempts"], costs),
            table(["file", "bytes"], [[name, f"{size:,}"] for name, size in record["bytes"].items()]),
            "<h2>Made with</h2>",
            table(["", ""], [[name, record[name]] for name in names]),
            "</main></body></html>",
        ]
    )


def publish(out: Path, profile: str, options: Facts, model: Transformer, facts: dict[str, Facts]) -> None:
    """Put record, report, the folder `model` and its GGUF file into `out`, each whole or not at all."""
    record, partial = record_of(profile, options, model, facts), out / "model.partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(out / "quantize" / "model", partial)
    card = {key: record[key] for key in ("title", "command", "parameters", "device", "date", "data", "board")}
    write(partial / "card.json", card | {"limits": LIMITS})
    shutil.rmtree(out / "model", ignore_errors=True)
    partial.replace(out / "model")
    shutil.copyfile(out / "quantize" / "model.gguf", out / "model.gguf.partial")
    (out / "model.gguf.partial").replace(out / "model.gguf")
    write(out / "record.json", record)
    (out / "report.html.partial").write_text(page_of(record), encoding="utf-8", newline="\n")
    (out / "report.html.partial").replace(out / "report.html")
