"""Decoders behind lm-eval's `TemplateLM`: `generate_until` by the decoder, log-likelihoods by the target.

lm-eval is an optional package, so its base class joins these methods only in `register`.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from experiments.build import construct
from experiments.lm_eval.arguments import SAMPLING, names, read_arguments
from experiments.lm_eval.wishes import read_wishes
from experiments.lm_eval.writer import Writer
from experiments.optional import need
from mtad.errors import UserError
from mtad.law import Sampling
from mtad.luck import Luck

LM_EVAL_DEVICE = "cuda:0"  # what --device is by default, on machines without a GPU too: taken for `auto`
LOG = logging.getLogger("lm_eval.mtad")  # below lm-eval's own logger, so that it is shown as lm-eval's lines are


@cache
def register() -> dict[str, str]:
    """Make every decoder of conf/decoder a model of lm-eval; its names, with the decoders. Raises UserError.

    A decoder is called as its YAML, or `mtad-` and that where lm-eval has a model of this name (`vllm`).
    """
    base = need("lm_eval.api.model", "tasks").TemplateLM
    taken = need("lm_eval.models", "tasks").MODEL_MAPPING
    registry = need("lm_eval.api.registry", "tasks")
    found = {f"mtad-{decoder}" if decoder in taken else decoder: decoder for decoder in names("decoder")}
    for name, decoder in found.items():
        registry.register_model(name)(type(DecoderModel.__name__, (DecoderModel, base), {"decoder": decoder}))
    return found


class DecoderModel:
    """The methods of an lm-eval model, for one decoder.

    Attributes:
        decoder: the YAML of conf/decoder.
        tokenizer: the target's, for lm-eval's chat templates.
    """

    decoder: str

    # -- making one --------------------------------------------------------------------------------------------

    def __init__(self, batch_size: Any = 1, max_batch_size: Any = None, **arguments: Any) -> None:
        super().__init__()
        self.writer = Writer(read_arguments(self.decoder, arguments))
        self.tokenizer = self.writer.tokenizer
        self._heated = "temperature" in arguments
        self._said: set[str] = set()
        if str(batch_size) != "1":
            self._warn(f"batch_size={batch_size} does not count: texts are written one at a time")

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> Any:
        """From `--model_args`, which win over what lm-eval adds: `--batch_size` and `--device`."""
        added = {key: value for key, value in (additional_config or {}).items() if value is not None}
        if added.get("device") == LM_EVAL_DEVICE:
            del added["device"]
        return cls(**{**added, **arg_dict})

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: Mapping[str, Any] | None = None) -> Any:
        """The same from text, as `simple_evaluate` may get it."""
        parsed = need("lm_eval.utils", "tasks").simple_parse_args_string(arg_string)
        return cls.create_from_arg_obj(parsed, additional_config)

    # -- generating --------------------------------------------------------------------------------------------

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The decoder's answers. A request's luck depends on its task, its context and how often that came before."""
        answers: list[str] = []
        times = Counter[str]()
        shortened = 0
        for request in tqdm(requests, desc=f"{self.decoder} writes", disable=disable_tqdm):
            context, asked = request.args
            longest, stop, sampling = self._wishes(asked)
            room = self.writer.max_positions - longest
            if room < 1:
                raise UserError(
                    f"max_gen_toks={longest} leaves no room for a context in the {self.writer.max_positions} "
                    f"positions of the pair; lower it with --gen_kwargs max_gen_toks=..."
                )
            tokens = self.tok_encode(context) or [self.prefix_token_id]
            shortened += len(tokens) > room
            name = f"{request.task_name}/{hashlib.sha256(context.encode(errors='replace')).hexdigest()[:16]}"
            luck = Luck(self.writer.arguments.options.seed, name, times[name])
            times[name] += 1
            answers.append(self.writer.write(tokens[-room:], longest, stop, sampling, luck))
        if shortened:
            LOG.warning(
                "%d of %d contexts were too long for the pair and lost their beginning", shortened, len(answers)
            )
        LOG.info("%s wrote %s", self.decoder, self.writer.totals)
        return answers

    def _wishes(self, asked: Mapping[str, Any]) -> tuple[int, tuple[str, ...], Sampling]:
        """Longest answer in tokens, stop strings and sampling of a request, as lm-eval reads its `gen_kwargs`."""
        mine = self.writer.arguments
        longest, stop, wishes = read_wishes(asked, mine.options.max_new_tokens)
        told = {key: value for key in SAMPLING if (value := wishes.pop(key, None)) is not None}
        sampled = wishes.pop("do_sample") and told.get("temperature") != 0
        if wishes:
            self._warn(f"{', '.join(wishes)} of generation_kwargs means nothing to a decoder and does not count")
        if sampled:
            return longest, stop, construct("generation_kwargs", Sampling, {**asdict(mine.sampling), **told})
        if self._heated:
            self._warn(
                "temperature does not count: the task is greedy without --gen_kwargs do_sample=true,temperature=..."
            )
        return longest, stop, replace(mine.sampling, greedy=True)

    # -- scoring -----------------------------------------------------------------------------------------------

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """What `TemplateLM.loglikelihood` asks for once it has tokens; too long contexts lose their beginning."""
        found = []
        for _texts, context, continuation in tqdm(requests, desc="the target scores", disable=disable_tqdm):
            if len(continuation) > self.max_length:
                raise UserError(
                    f"a continuation of {len(continuation)} tokens is longer than the target reads ({self.max_length})"
                )
            kept = self.max_length + 1 - len(continuation)  # the last token of all is not read
            read = context[-kept:] or [self.prefix_token_id]  # a tokenizer may make nothing of a blank context
            found.append(self.writer.score(read, continuation) if continuation else (0.0, True))
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in windows as long as the target reads, as lm-eval cuts them."""
        utils = need("lm_eval.utils", "tasks")
        sums = []
        for request in tqdm(requests, desc="the target scores", disable=disable_tqdm):
            (text,) = request.args
            windows = utils.get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.max_length, 1)
            pairs = [(None, *utils.make_disjoint_window(window)) for window in windows]
            sums.append(sum(value for value, _ in self._loglikelihood_tokens(pairs, disable_tqdm=True)))
        return sums

    # -- what lm-eval wants to know ----------------------------------------------------------------------------

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids with the tokenizer's own special ones, but no second beginning after a chat template's."""
        bos = self.tokenizer.bos_token
        if add_special_tokens is None:
            add_special_tokens = not (bos and string.startswith(bos))
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The token that stands before a text without context."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def max_length(self) -> int:
        """The longest text that the target scores at once."""
        return self.writer.scored_positions

    @property
    def tokenizer_name(self) -> str:
        """For lm-eval's cache of requests."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """The messages as one text in the target's template. Raises UserError."""
        if not self.tokenizer.chat_template:
            raise UserError("the target's tokenizer has no chat template; leave --apply_chat_template out")
        return str(
            self.tokenizer.apply_chat_template(
                list(chat_history),
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes beside its results: decoder, weights, and what the answers took."""
        return {"mtad_bench": self.writer.describe()}

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Called for `--use_cache` alone, which lm-eval keys by nothing but the request. Raises UserError."""
        raise UserError("--use_cache would give one decoder's answers as another's; leave it out")

    def _warn(self, message: str) -> None:
        """Say it once."""
        if message not in self._said:
            self._said.add(message)
            LOG.warning(message)
