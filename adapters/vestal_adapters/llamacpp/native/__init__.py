"""The only package that touches llama.cpp: typed handles on a model, a context, a batch and a sampler.

Nothing of the library leaves it: no pointer, no exception, no line of its log that is not part of an error. A
handle is closed by its owner, contexts and samplers before their model; closing again does nothing. Logits
stay in the library's memory.
"""

from vestal_adapters.llamacpp.native.context import Batch, Context
from vestal_adapters.llamacpp.native.model import Model, why_no_gpu
from vestal_adapters.llamacpp.native.sampler import Sampler
from vestal_adapters.llamacpp.native.vocabulary import Vocabulary

__all__ = ["Batch", "Context", "Model", "Sampler", "Vocabulary", "why_no_gpu"]
