"""Words reduced to what they are compared by: stop words out, endings off, numbers as digits.

The stemmer is light on purpose: it only has to bring "directed", "director" and "direction" together, on both sides of
the comparison. What no ending explains (born and birth, wrote and written) stands in a table.
"""

from functools import lru_cache

from groundwire.kg.native import native

STOP_WORDS = frozenset(
    """a about above after again against all also although am among an and another any are around as at be because
    been before being below between both but by can cannot could d did do does doing don down during each
    either else ever every few for from further get gets got had has have having he her here hers herself him
    himself his how however i if in into is it its itself just ll m many may me might more most much must my
    myself neither no nor not of off on once only or other others our ours ourselves out over own per quite
    rather re s same shall she should since so some still such t than that the their theirs them themselves
    then there these they this those though through thus to too under until up upon us ve very via was we were
    what when where whether which while who whom whose why will with within without would yet you your yours
    yourself yourselves""".split()  # noqa: SIM905 - a list of words reads better as a text
)

_NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
        seventeen eighteen nineteen twenty""".split()  # noqa: SIM905
    )
} | {"first": "1", "second": "2", "third": "3", "fourth": "4", "fifth": "5", "thirty": "30", "forty": "40",
     "fifty": "50", "sixty": "60", "seventy": "70", "eighty": "80", "ninety": "90", "hundred": "100"}  # fmt: skip

# Irregular forms and derivations of English, by the form that a graph's predicates tend to use.
_IRREGULAR = {
    form: stem
    for stem, forms in {
        "birth": "born birthday birthplace",
        "death": "died dead dies die dying deceased passed",
        "height": "tall high",
        "length": "long",
        "width": "wide",
        "depth": "deep",
        "weight": "weigh weighs weighed heavy",
        "age": "old aged ages aging",
        "spouse": "wife wives husband married marry marries marriage spouses wed",
        "child": "children kids kid son sons daughter daughters",
        "parent": "mother father mothers fathers parents",
        "write": "wrote written writer writers writing writes author authors authored",
        "star": "starring starred stars",
        "begin": "began begun begins beginning start started starts starting",
        "make": "makes making maker",
        "win": "won wins winner winning winners",
        "lead": "led leads leader leaders leading",
        "sing": "sang sung singer singers sings singing",
        "choose": "chose chosen",
        "find": "found finds",
        "found": "founded founder founders founding",
        "know": "known knew knows",
        "speak": "spoke spoken speaks",
        "build": "built builds building",
        "teach": "taught teacher",
        "hold": "held holds holder",
        "film": "movie movies films filmed",
        "money": "dollars dollar budget earned",
        "nation": "nationality national",
        "country": "countries",
        "person": "people persons",
        "man": "men",
        "woman": "women",
    }.items()
    for form in (stem, *forms.split())
}

_ENDINGS = ("ations", "ation", "ings", "ing", "ions", "ion", "ers", "ors", "ies", "ied", "ed", "es", "er", "or", "ly",
            "al", "ic", "s", "e", "y")  # fmt: skip
_SHORTEST_STEM = 3
# Code points of a word that caches keep: a longer one is hardly met again, and a hostile text may be one word.
LONGEST_KEPT = 64
_LONGEST_STEM = 6


def stem(word: str) -> str:
    """Reduce a folded word to its stem; empty when it is a stop word."""
    return _kept_stem(word) if len(word) <= LONGEST_KEPT else _stem(word)


def _stem(word: str) -> str:
    if native is None:
        return plain_stem(word)
    reduced: str = native.stem(word, STOP_WORDS, _NUMBERS, _IRREGULAR, _ENDINGS, _SHORTEST_STEM, _LONGEST_STEM)
    return reduced


_kept_stem = lru_cache(maxsize=1 << 16)(_stem)


def plain_stem(word: str) -> str:
    """`stem` in Python."""
    if word in STOP_WORDS:
        return ""
    if word in _NUMBERS:
        return _NUMBERS[word]
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word[0].isdigit():
        return word.lstrip("0") or "0" if word.isdigit() else word
    for ending in _ENDINGS:
        if len(word) - len(ending) >= _SHORTEST_STEM and word.endswith(ending):
            word = word[: -len(ending)]
            if len(word) > _SHORTEST_STEM and word[-1] == word[-2]:
                word = word[:-1]
            break
    return word[:_LONGEST_STEM]
