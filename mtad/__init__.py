"""The core: token trees, sessions, laws, and the decoders of arXiv 2407.09722.

Knows models and token ids. Knows nothing of Hydra, tasks or file formats.
"""

import logging

# Where these are installed, transformers imports them, and they tell every user which kernels of other machines they do
# without; bitsandbytes, at every layer of every forward, that it casts to fp16, which is how it works.
for _talker in ("torchao", "torch.utils._pytree", "bitsandbytes"):
    logging.getLogger(_talker).setLevel(logging.ERROR)
