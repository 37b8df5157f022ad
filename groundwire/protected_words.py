"""Words that say how much, whether, or compared with what: changing one, or making one by a slip, changes what is said.

Attacks and perturbation probes leave them alone.
"""

_NEGATIONS = """no not nor non none never nothing nobody nowhere neither without cannot cant wont dont doesnt didnt isnt
    arent wasnt werent hasnt havent hadnt shouldnt wouldnt couldnt false untrue deny denies denied lack lacks lacked
    except unless hardly barely rarely seldom nicht kein keine keiner nie ohne pas jamais sans nunca sin ningun
    ninguna"""
_NUMBERS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred hundreds thousand
    thousands million millions billion billions trillion dozen dozens half quarter third fourth fifth sixth seventh
    eighth ninth tenth first second once twice thrice single double triple both
    couple decade decades century centuries"""
_COMPARISONS = """more less most least fewer fewest few many much all every each some any only over under above below
    before after until since between during than same different other another"""
PROTECTED = frozenset(f"{_NEGATIONS} {_NUMBERS} {_COMPARISONS}".split())
