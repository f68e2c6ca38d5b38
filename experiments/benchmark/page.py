"""The page of a benchmark: what was measured, where and how, a table for each section, and the aims with verdicts.

Made of the record alone: every number here is in the JSON, with more digits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.benchmark.estimates import Known

NOTHING = "-"
QUICK = "Made with --quick, which tells whether everything works: figures and verdicts say nothing."
OUTSIDE = (
    "Outside forwards: the rest of decoding, that is decisions, commits, and the warping and transfer of laws. A "
    "forward's time includes the preparing of its inputs and, where a GPU grows whole drafts, the choice of their "
    "tokens: each level is a forward there."
)
Section = Mapping[str, Any]


def page(record: Mapping[str, Any]) -> str:
    """The whole page, Markdown."""
    lines = [f"# Benchmark on {_where(record['hardware'])}", ""]
    lines += [
        "Tokens per second of decoding, prefill left out; every variant writes to every prompt in random order, in one "
        "process. Brackets: 95 % intervals by the bootstrap over prompts (of reads: over repetitions); n is their "
        f"number. `{NOTHING}`: not measured, for the reason given below the table.",
        "",
        *([f"**{QUICK}**", ""] if record["settings"].get("quick") else []),
        *_hardware(record),
    ]
    for name, sections in record["pairs"].items():
        lines += ["", f"## {name}", ""]
        lines += _aims(record["verdicts"][name], [title for title, one in sections.items() if one.get("isolation")])
        for title, make in (("texts", _texts), ("reads", _reads), ("batches", _batches)):
            if title in sections:
                lines += ["", *make(sections[title])]
            else:
                lines += ["", f"Section `{title}` was not measured."]
    return "\n".join(lines) + "\n"


def interval(figure: Known | None, digits: int = 2, scale: float = 1.0) -> str:
    """Value, and low and high in brackets where there is an interval."""
    if figure is None or figure["value"] is None:
        return NOTHING
    value = f"{figure['value'] * scale:.{digits}f}"
    if figure["low"] is None:
        return value
    return f"{value} [{figure['low'] * scale:.{digits}f}, {figure['high'] * scale:.{digits}f}]"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A pipe table, the first column of words, the others of numbers."""
    lines = [heads, [":---", *["---:"] * (len(heads) - 1)], *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def _where(hardware: Mapping[str, Any]) -> str:
    gpu = hardware["gpu"]
    return str(gpu["name"] if gpu else hardware["cpu"])


def _hardware(record: Mapping[str, Any]) -> list[str]:
    here, packages = record["hardware"], record["hardware"]["packages"]
    gpu = f"GPU {here['gpu']['name']}, {here['gpu']['memory_bytes'] / 1e9:.0f} GB; " if here["gpu"] else ""
    memory = f"{here['memory_bytes'] / 1e9:.0f} GB" if here["memory_bytes"] else "unknown memory"
    units = ", ".join(here["instructions"] or []) or "instruction sets unknown"
    software = ", ".join(f"{name} {packages[name]}" for name in ("torch", "transformers"))
    return [
        f"- Hardware: {gpu}{here['cpu']} ({here['cores_allowed']} of {here['cores']} cores, {memory}; {units}), "
        f"torch threads: {here['torch_threads']}",
        f"- Software: Python {here['python']}, {software}; code `{here['code']}`, commit `{here['git'] or 'unknown'}`",
        f"- Command: `{record['command']}`, begun {record['started']}",
    ]


def _aims(judged: Sequence[Section], disturbed: Sequence[str]) -> list[str]:
    """The verdicts, with a warning of the sections during which others used the machine."""
    if not judged:
        return ["No aims are set for this device."]
    rows = [
        [
            one["figure"] + (f" ({one['measured']['of']})" if one["measured"].get("of") else ""),
            one["aim"],
            interval(one["measured"], 3 if "share" in one["figure"] else 2),
            _count(one["measured"]),
            f"**{one['verdict']}**" + (f": {one['reason']}" if one["reason"] else ""),
        ]
        for one in judged
    ]
    lines = ["### Aims", "", *table(("figure", "aim", "measured", "n", "verdict"), rows)]
    warning = (
        f"**Others used the machine meanwhile** ({', '.join(disturbed)}); what was found stands in these sections."
    )
    return [*lines, "", warning] if disturbed else lines


def _count(figure: Known | None) -> str:
    return str(figure["n"]) if figure and figure["n"] else NOTHING


def _texts(found: Section) -> list[str]:
    tuning = found["tuning"]
    lines = [
        "### Speed",
        "",
        f"{found['prompts']} prompts, texts of up to {found['max_new_tokens']} tokens, sampling "
        f"{_options(found['sampling'])}; run `{found['run']}`.",
    ]
    if tuning:
        chosen = "; ".join(
            f"{name} {_options({key: one for key, one in options.items() if key != 'trials'})} (of {options['trials']})"
            for name, options in tuning["chosen"].items()
        )
        lines += [
            "",
            f"Same gamma: {tuning['gamma_same']}. Best options, and of how many, chosen on {tuning['prompts']} other "
            f"prompts (loss {tuning['loss']:g}): {chosen}. "
            f"`best joint` is `{found['labels'].get('best joint', NOTHING)}`.",
        ]
        failed = [name for name, admissible in tuning["admissible"].items() if not admissible]
        lines += ["", f"No trial of {', '.join(failed)} kept perplexity and score."] if failed else []
    lines += ["", f"**Random weights**: {found['untrained']}."] if found["untrained"] else []
    lines += ["", *_ratios(found["ratios"], found["untrained"])]
    lines += ["", "### Variants, and their time outside model forwards", "", OUTSIDE, ""]
    lines += _variants(found["variants"], found["untrained"])
    if found["bandwidth"]["gigabytes_per_second"]:
        lines += ["", f"Memory bandwidth, measured: {found['bandwidth']['gigabytes_per_second']:.0f} GB/s."]
    return [*lines, "", f"Disturbances: {_disturbed(found)}."]


def _disturbed(found: Section) -> str:
    return "; ".join(found["isolation"]) or "none found"


def _options(options: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in options.items())


def _ratios(ratios: Sequence[Section], said: str | None) -> list[str]:
    """`said`: a reason given already; pairs that are not there for it are left out."""
    ratios = [one for one in ratios if said is None or one["speed"]["reason"] != said]
    rows = [
        [
            one["name"],
            interval(one["speed"]),
            _count(one["speed"]),
            interval(one["perplexity_ratio"]),
            interval(one["score_difference"]),
        ]
        for one in ratios
    ]
    lines = table(("pair", "speed ratio", "n", "perplexity ratio", "score difference"), rows)
    columns = {"speed": "speed ratio", "perplexity_ratio": "perplexity ratio", "score_difference": "score difference"}
    return lines + _reasons([(one["name"], {head: one[key] for key, head in columns.items()}) for one in ratios], said)


def _variants(variants: Sequence[Section], said: str | None) -> list[str]:
    columns = {  # key -> head, digits, scale
        "tokens_per_second": ("tokens/s", 1, 1),
        "tokens_per_target_forward": ("tokens per target forward", 2, 1),
        "perplexity": ("perplexity", 3, 1),
        "score": ("score", 2, 1),
        "share_outside_forwards": ("outside forwards, %", 1, 100),
        "microseconds_outside_forwards_per_round": ("outside forwards, µs per round", 0, 1),
        "milliseconds_per_target_forward": ("ms per target forward", 3, 1),
        "milliseconds_per_draft_forward": ("ms per draft forward", 3, 1),
    }
    rows = [
        [one["label"], *(interval(one[key], digits, scale) for key, (_, digits, scale) in columns.items())]
        for one in variants
    ]
    lines = table(("variant", *(head for head, _, _ in columns.values())), rows)
    heads = {key: head for key, (head, _, _) in columns.items()}
    return lines + _reasons([(one["label"], {head: one[key] for key, head in heads.items()}) for one in variants], said)


def _reasons(rows: Sequence[tuple[str, Mapping[str, Known | None]]], said: str | None = None) -> list[str]:
    """Why figures or their intervals are not there, by reason and column, but for the reason that is `said` already."""
    named: dict[tuple[str, str], list[str]] = {}
    for name, figures in rows:
        for column, figure in figures.items():
            if figure and figure["reason"] and figure["reason"] != said:
                named.setdefault((figure["reason"], column), []).append(name)
    lines = [
        f"- {column} of {'all' if len(names) == len(rows) else ', '.join(names)}: {reason}"
        for (reason, column), names in named.items()
    ]
    return ["", *lines] if lines else []


def _reads(found: Section) -> list[str]:
    context, repeats = found["context_tokens"], found["repeats"]
    lines = [
        "### What a read costs, against the nodes that it feeds",
        "",
        f"Medians of {repeats} repetitions after {context:g} tokens, engines by turns; steady: after reads of the same "
        "model, switched: after reads of the other.",
        "",
    ]
    for name, models in found["engines"].items():
        runs = ", ".join(f"{role} {one['runs']}" for role, one in models.items())
        fallbacks = "".join(f"; {role}: {one['fallback']}" for role, one in models.items() if one["fallback"])
        lines.append(f"- engine {name} runs {runs}{fallbacks}")
    lines.append(f"- disturbances: {_disturbed(found)}")
    for one in found["reads"]:
        points = one["curve"]
        ratio = next(key for key in points[0] if key.startswith("ratio_to_") and key.endswith("_nodes"))
        rows = [
            [
                str(point["nodes"]),
                interval(point["steady_milliseconds"], 3),
                interval(point["switched_milliseconds"], 3),
                interval(point[ratio]),
                interval(point["ratio_to_eager"]),
            ]
            for point in points
        ]
        heads = ("nodes", "steady, ms", "switched, ms", f"steady / that of {points[0]['nodes']}", "steady / eager's")
        lines += ["", f"**{one['model']}, engine {one['engine']}**, n = {repeats}", "", *table(heads, rows)]
    return lines


def _batches(found: Section) -> list[str]:
    lines = [
        "### Batches",
        "",
        f"{found['prompts']} prompts in {found['windows']} windows, which all sizes write alike; schedule "
        f"{found['schedule']}; whole windows, prefill included; run `{found['run']}`. Rows in use: the share of rows "
        "and time that texts filled.",
        "",
    ]
    if not found["sizes"]:
        return [*lines, f"Not measured: {found['reason']}."]
    rows = [
        [
            f"{one['variant']}, {one['batch_size']}",
            interval(one["tokens_per_second"], 1),
            interval(one["ratio_to_one"]),
            interval(one["ratio_to_autoregressive"]),
            f"{one['latency_median_seconds']:.3f}",
            f"{one['row_use']:.0%}",
            f"{one['texts_differing']} ({one['texts_unexplained']})",
            _count(one["tokens_per_second"]),
        ]
        for one in found["sizes"]
    ]
    heads = (
        *("variant, texts a forward", "tokens/s", "of its own at 1", "of autoregressive at this size"),
        *("median latency, s", "rows in use", "texts that differ from batch 1 (unexplained)", "n, windows"),
    )
    lines += [*table(heads, rows), "", f"Disturbances: {_disturbed(found)}."]
    return lines + _reasons(
        [(f"{one['variant']}, {one['batch_size']}", {"tokens/s": one["tokens_per_second"]}) for one in found["sizes"]]
    )
