"""Multi-candidate speculative sampling: SpecInfer's walk, with siblings drawn without replacement; lossless.

Yang, Huang, Dai, Chen: "Multi-Candidate Speculative Decoding", arXiv 2401.06706.

    draft   below every node of depth d, `branching[d]` children x_1, x_2, ...: x_i ~ q_i, where q_1 = q and
            q_i+1 = q_i without x_i, normalised
    accept  at a node, the first child with  u_i < p(x_i) / q_i(x_i), and go on below it;
            after each refusal  p <- max(p - q_i, 0), normalised
    then    if all children are refused a token from what is left of p; at a leaf one more from p

`replacement: true` is the paper's other variant, q_i = q throughout, which is the rule of `baselines.specinfer`. The
paper's defaults: without replacement; its branchings depend on the models, (4, 2, 2) is the example of the authors'
code. Differs: there the tree is as deep as that list is long, here one child follows at each depth beyond, to gamma;
no node has more children than truncation leaves tokens. Under greedy sampling, as in the authors' code, children are
the most probable tokens of q, and the one that is the target's best is accepted.
"""

from __future__ import annotations

from dataclasses import dataclass

from baselines.specinfer import verified_tree
from mtad.decoder import Rounds, Text
from mtad.options import at_least, each_at_least
from mtad.session import Reader


@dataclass(frozen=True)
class Mcss:
    """Children drawn without replacement, unless asked for.

    Attributes:
        gamma: draft length (depth of the tree) in tokens.
        branching: children of a node at depth 0, 1, ...; one at each depth beyond.
        replacement: draw siblings independently, so that equal ones occur.
    """

    gamma: int = 4
    branching: tuple[int, ...] = (4, 2, 2)
    replacement: bool = False

    joint = True
    drafts = True
    lossless = True

    def __post_init__(self) -> None:
        at_least("gamma", self.gamma, 1)
        each_at_least("branching", self.branching, 1)

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        return verified_tree(text, target, draft, self.gamma, self.branching, self.replacement)
