"""How families of models write calls of tools: one small file for each. Pure.

Which family a model is of is seen from its template: the one whose parser reads the call that the template
writes. Hermes is the default, which a model without tools of its own is asked to write.
"""

from vestal_adapters.llamacpp.families.family import Call, Family, Form, Malformed, NotACall, Place, Syntax
from vestal_adapters.llamacpp.families.hermes import Hermes
from vestal_adapters.llamacpp.families.llama import Llama
from vestal_adapters.llamacpp.families.mistral import MistralList

__all__ = ["DEFAULT", "FAMILIES", "Call", "Family", "Form", "Malformed", "NotACall", "Place", "Syntax"]

DEFAULT: Family = Hermes()
FAMILIES: tuple[Family, ...] = (DEFAULT, MistralList(), Llama())
