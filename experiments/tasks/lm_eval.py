"""Any generating task of lm-eval inside a run: its contexts as prompts, its filters, metrics and standard errors.

Knows what a run asks of a task; what lm-eval asks of a model otherwise (log-likelihoods) is for
`python -m experiments.lm_eval`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from experiments.lm_eval.loaded import Found, Loaded, is_number, load, name_of, undefined
from experiments.task import Prompt, Task


@dataclass(frozen=True, kw_only=True)
class LmEval(Task):
    """A task of lm-eval, by its name.

    Attributes:
        include: a folder with task YAMLs; if `name` is among them, lm-eval's own are not looked through.
        num_fewshot: worked examples before each question; None: as the task says.
        bootstrap_iters: resamples for standard errors that have no formula; 0 leaves these out.
        licence, citation: of lm-eval; its tasks have their own, see their README.
    """

    name: str = ""
    include: str | None = None
    num_fewshot: int | None = None
    bootstrap_iters: int = 100_000
    licence: str = ""
    citation: str = ""

    @property
    def max_new_tokens(self) -> int:
        """As the task's generation_kwargs say; `max_new_tokens=` of the run changes it."""
        return self._loaded.longest

    @property
    def stop(self) -> tuple[str, ...]:
        """The task's `until`."""
        return self._loaded.stop

    @property
    def chat_stop(self) -> tuple[str, ...]:
        """lm-eval stops a chat model there too."""
        return self.stop

    @property
    def templated(self) -> bool:
        """Not where the task begins the answer itself: under a template that would be in the user's turn."""
        return not self._loaded.task.config.gen_prefix

    def prompts(self) -> Sequence[Prompt]:
        return self._loaded.prompts

    def check(self) -> None:
        """Loads the task and aggregates its own targets: both may need what is not there (a package, a script)."""
        self._loaded.check()

    def grade(self, prompt: Prompt, text: str) -> Mapping[str, float]:
        """Each metric of each filter that is a number for one text, as "metric,filter"; the first is the headline.

        That is the same one for all texts of a task; a text without it has no grades, so that none passes for it.
        """
        found = self._loaded
        scored = found.score(prompt.id, text)
        grades = {
            name_of(key): float(value)
            for key, value in (found.nothing if scored is None else scored).items()
            if is_number(value)
        }
        if found.headline not in grades:
            return {}
        return {found.headline: grades[found.headline], **grades}

    def figures(self, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        """lm-eval's aggregated metrics with its standard errors; of several repeats the mean of both."""
        found = self._loaded
        repeats: dict[int, list[Found | None]] = {}
        for row in rows:
            repeats.setdefault(row["repeat"], []).append(found.score(row["prompt_id"], row["text"]))
        unscored = sum(one is None for scored in repeats.values() for one in scored)
        if unscored:
            return {name_of(key): undefined(f"lm-eval cannot score {unscored} of the texts") for key in found.known}
        # Not every document need have every metric.
        keys = dict.fromkeys(
            [*found.known, *(key for scored in repeats.values() for one in scored for key in one or ())]
        )
        figures = {}
        for key in keys:
            runs = [[one[key] for one in scored if one and key in one] for scored in repeats.values()]
            figures[name_of(key)] = found.aggregate(key[0], [run for run in runs if run], self.bootstrap_iters)
        return figures

    def origin(self) -> Mapping[str, Any]:
        found = self._loaded
        config = found.task.config
        place = config.dataset_path or found.task.DATASET_PATH
        return {
            "id": f"lm-eval {version('lm_eval')}: {self.name}",
            "version": str(found.task.VERSION),
            "num_fewshot": config.num_fewshot,
            "dataset": Path(place).name if place and Path(place).exists() else place,
            "subset": config.dataset_name,
            "split": config.test_split or config.validation_split,
            "sha256": found.digest(),
            "rows": len(found.requests),
            "licence": self.licence,
            "citation": self.citation,
        }

    @property
    def _loaded(self) -> Loaded:
        """Raises UserError."""
        return load(self.name, self.include, self.num_fewshot)
