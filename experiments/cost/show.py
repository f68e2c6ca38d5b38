"""The tables of a study, from cost.json's content alone; readable at 100 columns, and when piped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments.stand_in import drawn
from experiments.table_style import plain_table, readable

SPREAD = 0.25  # of the median, between the quartiles; more of it in half of the sizes is worth a warning

Record = Mapping[str, Any]


def print_study(record: Record, console: Console | None = None) -> None:
    """Costs, then predictions if a run was looked at, then energy, then what they take for granted."""
    console = readable(console)
    tables = [_curves(record), _predictions(record), _gammas(record), _energy(record)]
    for table in tables:
        if table is not None:
            console.print(table)
    for note in _notes(record):
        console.print(note, style="dim", markup=False)


def _curves(record: Record) -> Table:
    context, repeats = f"{record['timed_context_tokens']:.0f}", record["repeats"]
    title = f"One read after {context} tokens: lower quartile of {repeats} [median, upper]"
    heads = ("target\nms", "after\ndraft", "GFLOP", "MB", "draft\nms", "after\ntarget", "GFLOP", "MB")
    table = plain_table(title, ["nodes"], heads)
    for target, draft in zip(record["reads"]["target"], record["reads"]["draft"], strict=True):
        cells = [cell for point in (target, draft) for cell in _read(point)]
        table.add_row(str(target["nodes"]), *cells)
    return table


def _read(point: Record) -> tuple[str, str, str, str]:
    keys = ("steady_seconds_quartile_1", "steady_seconds_median", "steady_seconds_quartile_3")
    low, median, high = (f"{1e3 * point[key]:.2f}" for key in keys)
    switched = f"{1e3 * point['switched_seconds_quartile_1']:.2f}"
    return escape(f"{low} [{median}, {high}]"), switched, _scaled(point["flops"], 1e9), _scaled(point["bytes"], 1e6)


def _predictions(record: Record) -> Table | None:
    if not record["decoders"]:
        return None
    heads = (
        "predicted\nspeed-up",
        "measured\n[95 % interval]",
        "error",
        "predicted\nms/token",
        "measured",
        "error",
        "outside\nforwards",
    )
    table = plain_table("Speed-up, predicted from reads timed apart and the run's counts", ["variant"], heads)
    for label, found in record["decoders"].items():
        table.add_row(
            escape(label),
            f"{found['predicted_speedup']:.2f}",
            escape(_measured(found)),
            _error(found["error"]),
            f"{1e3 * found['predicted_seconds_per_token']:.2f}",
            f"{1e3 * found['measured_seconds_per_token']:.2f}",
            _error(found["seconds_per_token_error"]),
            f"{found['measured_share_outside_forwards']:.1%}",
        )
    return table


def _measured(found: Record) -> str:
    value, low, high = (found[f"measured_speedup{end}"] for end in ("", "_low", "_high"))
    if value is None:
        return "-"
    return f"{value:.2f}" if low is None else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _gammas(record: Record) -> Table | None:
    drafting = {label: found for label, found in (record["decoders"] or {}).items() if found["gamma"] is not None}
    if not drafting:
        return None
    heads = (
        *("gamma", "tokens/round\nto break even", "measured", "acceptance\nto break even", "measured"),
        *("best\ngamma", "speed-up\nthere", "at its\nown"),
    )
    table = plain_table("Break-even and best gamma, in the middle of a text", ["variant"], heads)
    for label, found in drafting.items():
        by_gamma: Sequence[float] = found["predicted_speedup_by_gamma"]
        table.add_row(
            escape(label),
            str(found["gamma"]),
            f"{found['break_even_tokens_per_round']:.2f}",
            f"{found['tokens_per_round']:.2f}",
            _number(found["break_even_acceptance"]),
            _number(found["equivalent_acceptance"]),
            str(found["best_gamma"]),
            f"{by_gamma[found['best_gamma'] - 1]:.2f}",
            f"{found['predicted_speedup_at_gamma']:.2f}",
        )
    return table


def _energy(record: Record) -> Table | None:
    if not record["energy"]:
        return None
    heads = (
        *("batch", "nodes", "tokens", "compute\nmJ/token", "memory\nmJ/token", "its\nshare", "idle\nmJ/token"),
        *("measured\nmJ/token", "at\nnodes"),
    )
    table = plain_table("Energy of the target's reads, by texts that share one", ["reads of"], heads)
    for kind, splits in record["energy"]["splits"].items():
        for found in splits:
            table.add_row(
                escape(kind),
                str(found["batch"]),
                f"{found['nodes']:.1f}",
                f"{found['tokens_per_text']:.2f}",
                _small(found["compute_joules_per_token"]),
                _small(found["memory_joules_per_token"]),
                f"{found['memory_share']:.0%}",
                _small(found["idle_joules_per_token"]),
                _small(found["measured_joules_per_token"]),
                "-" if found["measured_nodes"] is None else str(found["measured_nodes"]),
            )
    return table


def _notes(record: Record) -> list[str]:
    """Reasons of what is missing, where numbers come from, and what is taken for granted."""
    notes = [f"context: {record['context_origin']}"]
    if random := drawn(record.get("weights")):  # of which records of the first versions know nothing
        notes.insert(0, f"STAND-IN: {random}: reads cost what these cost; what rests on acceptance means nothing")
    if record["incomparable"]:
        notes.append(f"NOT COMPARABLE: {record['incomparable']}; predicted and measured are shown, errors are not")
    if abs(record["timed_context_tokens"] - record["context_tokens"]) > 1:
        asked, timed = record["context_tokens"], record["timed_context_tokens"]
        notes.append(f"context: {asked} tokens are fewer than a sweep of reads needs; they had {timed:.0f} on average")
    points = [point for curve in record["reads"].values() for point in curve]
    wide = sum(
        point["steady_seconds_quartile_3"] - point["steady_seconds_quartile_1"]
        > SPREAD * point["steady_seconds_median"]
        for point in points
    )
    if wide > len(points) / 2:
        notes.append(f"NOISY: of {wide} among {len(points)} sizes the quartiles lie more than {SPREAD:.0%} apart")
    for name in ("arithmetic", "decoders"):
        if record[f"{name}_reason"]:
            notes.append(f"{name}: {record[f'{name}_reason']}")
    notes += [f"{label}: not modelled, an engine reads by itself" for label in record["not_modelled"]]
    for label, found in (record["decoders"] or {}).items():
        if found["measured_speedup_reason"]:
            notes.append(f"{label}: {found['measured_speedup_reason']}")
        if found["gamma_reason"]:
            notes.append(f"{label} has no gamma: {found['gamma_reason']}")
        beyond = max(map(int, found["reads"]["target"]), default=0)
        if beyond > found["largest_timed_read_nodes"]:
            notes.append(f"{label} read up to {beyond} nodes, beyond the timed ones")
    if record["energy"]:
        splits = [found for kind in record["energy"]["splits"].values() for found in kind]
        missing = [record["energy"]["prices_not_calibrated_reason"]]
        missing += [found["measured_joules_per_token_reason"] for found in splits]
        notes.append(f"energy: {record['energy']['prices']['source']}")
        notes += [f"energy, not measured: {reason}" for reason in dict.fromkeys(missing) if reason]
    return notes + [f"assumed, {name}: {text}" for name, text in record["assumptions"].items()]


def _error(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _small(joules: float | None) -> str:
    return "-" if joules is None else f"{1e3 * joules:.3g}"


def _scaled(value: float | None, unit: float) -> str:
    return "-" if value is None else f"{value / unit:.3g}"
