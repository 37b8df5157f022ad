"""How a span is written, as numbers: what its score as a name is made from."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, log1p

from groundwire.kg.index import ALTERNATIVE, CASED, GraphIndex, Posting
from groundwire.kg.labels import ALONE
from groundwire.kg.match import Span
from groundwire.kg.stems import STOP_WORDS
from groundwire.kg.text import Words

FEATURES = (
    "alternative",  # an alternative label
    "part",  # a part of a label only
    "part_missing",  # share of the label's letters that the part lacks
    "part_shared",  # log of the number of labels that have the part
    "part_own",  # log of how often the graph's descriptions use the part, a single word, as a name of its own
    "part_first",  # the part is how the label begins
    "edits",  # misspelt words
    "edits_short",  # misspelt words by letters: a slip counts for more in a short name
    "respaced",  # split or joined otherwise than the label
    "single",  # one word
    "lower",  # in lower case although the label has capitals and so has the text
    "lower_single",  # the same, and one word
    "lower_changed",  # the same, and misspelt or split or joined otherwise: nothing but some letters speak for it
    "lower_address",  # the same, within a web address, path or identifier, where all is in lower case
    "shouted",  # in capitals although the label is not
    "opening",  # one word at the start of a sentence, where anything has a capital
    "common",  # log of how often the single word is in lower case in the graph's own texts
    "common_lower",  # the same, when in lower case
    "stop",  # nothing but stop words
    "number",  # nothing but digits
    "short",  # at most three letters
    "glued",  # stuck to another word by a dot, underscore or backslash: an identifier, a file name
    "address",  # within a web address or path
    "letters",  # log of the number of letters
)


BEFORE_SENTENCE = " \t\n\"'“”‘’([{*>#|-•"  # may stand before its first word


@dataclass(slots=True)
class Written:
    """A span as it stands in the text."""

    text: str
    cased: bool
    capitals: bool
    words: list[str]
    letters: int
    opening: bool
    glued: bool
    address: bool
    common: int
    alone: int


def written_spans(index: GraphIndex, text: str, words: Words, places: Sequence[tuple[int, int]]) -> list[Written]:
    """How each span (first, last word, exclusive) is written."""
    singles = [words.words[first] if last - first == 1 else "" for first, last in places]
    counts = [0] * (2 * len(places))
    if any(singles):
        counts = index.lower_case_counts([*singles, *(ALONE + single for single in singles)])
    spans = []
    for (first, last), single, count, alone in zip(
        places, singles, counts[: len(places)], counts[len(places) :], strict=True
    ):
        start, end = words.starts[first], words.ends[last - 1]
        written = text[start:end]
        inside = words.words[first:last]
        spans.append(
            Written(
                written,
                written != written.lower(),
                written == written.upper() and written != written.lower(),
                inside,
                sum(map(len, inside)),
                _opens_sentence(text, start),
                _glued(text, start, end),
                in_address(text, start),
                count if single else 0,
                alone if single else 0,
            )
        )
    return spans


def features(written: Written, span: Span, label: str, posting: Posting, text_has_capitals: bool) -> list[float]:
    """The features of a span read as the label of an entity, in the order of `FEATURES`."""
    single = len(written.words) == 1
    lower = posting.shape == CASED and not written.cased and text_has_capitals
    squeezed = label.replace(" ", "")
    digits = "".join(written.words).isdigit()
    part_missing = 1.0 - min(1.0, written.letters / len(squeezed)) if span.part else 0.0
    common = log1p(written.common)
    respaced = not span.part and not span.edits and " ".join(written.words) != label
    return [
        posting.kind == ALTERNATIVE,
        span.part,
        part_missing,
        log(span.shared) if span.part else 0.0,
        log1p(written.alone) if span.part else 0.0,
        span.part and squeezed.startswith("".join(written.words)),
        span.edits,
        8.0 * span.edits / written.letters,
        respaced,
        single,
        lower,
        lower and single,
        lower and (span.edits > 0 or respaced),
        lower and (written.address or written.glued),
        written.capitals and written.letters > 1 and posting.shape != CASED,
        single and written.opening and not written.capitals,
        common,
        common if lower else 0.0,
        all(word in STOP_WORDS for word in written.words),
        digits,
        written.letters <= 3,
        written.glued,
        written.address,
        log(written.letters),
    ]


def _opens_sentence(text: str, start: int) -> bool:
    before = text[max(0, start - 16) : start].rstrip(BEFORE_SENTENCE)
    return not before or before[-1] in ".!?:;"


def _glued(text: str, start: int, end: int) -> bool:
    left = text[start - 1 : start]
    right = text[end : end + 1]
    follows = text[end + 1 : end + 2].isalnum() or text[end : end + 3] == "[.]"  # a domain made unclickable
    return left in ("_", ".", "\\", "$", "@", "&", "=", "%") or (right in ("_", "\\", "@", "=", ".", "[") and follows)


def in_address(text: str, start: int) -> bool:
    """Whether what begins there is within a web address or path."""
    if "/" not in text:
        return False
    begin = max(text.rfind(" ", 0, start), text.rfind("\n", 0, start), text.rfind("\u00a0", 0, start)) + 1
    chunk = text[max(begin, start - 400) : start]
    return "/" in chunk and ("://" in chunk or "www." in chunk or chunk.count("/") > 1)
