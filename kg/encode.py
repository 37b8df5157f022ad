"""A text and its evidence as one row of token ids: the same code for training and for serving.

The evidence is written as one string, each subject once, each predicate once for a subject:

    In Rainbows | Genre: art rock, art pop | Released: 10 October 2007

Triples enter in order of relevance as long as they fit; one that doesn't fit is left out whole, so the model never
reads half a fact. Only an object of more than `MAX_OBJECT_TOKENS` is cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from groundwire.kg.normalise import Normaliser
from groundwire.kg.tokens import Tokens
from groundwire.kg.types import Evidence

MAX_OBJECT_TOKENS = 48
MAX_LABEL = 2_000  # code points of a label that are read: more than so many tokens of any but the oddest words
# The text may take this share of a row when there is evidence too; a longer text is cut at its end.
MAX_TEXT_SHARE = 0.75


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """One row for the model, without padding.

    `ids` and `type_ids` are of equal length, at most `max_tokens`. `used` are the positions of the evidence that the
    row holds, ascending. `text_truncated` says whether the end of the text was cut off.
    """

    ids: list[int]
    type_ids: list[int]
    used: tuple[int, ...]
    text_truncated: bool


class PairEncoder:
    """Encodes (text, evidence) rows with a Hugging Face tokenizer. May be used from several threads at once.

    Args:
        tokenizer_json: content of a `tokenizer.json`. Truncation and padding that it asks for are switched off.
        max_tokens: most tokens of a row, special tokens included.
        normaliser: puts texts right before they are tokenized; None leaves them as they are.

    Raises:
        ValueError: the tokenizer can't be read, or `max_tokens` leaves no room beside the special tokens.
    """

    def __init__(self, tokenizer_json: bytes, max_tokens: int, normaliser: Normaliser | None = None) -> None:
        try:
            self.tokenizer = Tokenizer.from_str(tokenizer_json.decode("utf-8"))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"tokenizer.json can't be read: {error}") from error
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        # "[SEP]" in a text is what it says, and no border between text and evidence.
        self.tokenizer.encode_special_tokens = True
        self.max_tokens, self.normaliser = max_tokens, normaliser
        self.pad_id = next((i for t in ("[PAD]", "<pad>") if (i := self.tokenizer.token_to_id(t)) is not None), 0)
        self._single = _template(self.tokenizer, pair=False)
        self._pair = _template(self.tokenizer, pair=True)
        if max_tokens < self._pair.specials + 4:
            raise ValueError(f"max_tokens is {max_tokens}; it must be at least {self._pair.specials + 4}")
        self._tokens = Tokens(self.tokenizer)

    def encode(self, text: str, evidence: Sequence[Evidence], beside: Sequence[Evidence] | None = None) -> EncodedPair:
        """Encode one row. `evidence` is in order of falling relevance and may be empty.

        Where the text is put right, words of `beside` are known, which is `evidence` unless it is given: a row that
        leaves out some of a text's evidence then reads the same text.
        """
        if self.normaliser is not None:
            text = self.normaliser(text, evidence if beside is None else beside)
        text_ids = self._tokens.of_text(text)
        if not evidence:
            room = self.max_tokens - self._single.specials
            return EncodedPair(*self._single.fill(text_ids[:room], ()), (), len(text_ids) > room)
        room = self.max_tokens - self._pair.specials
        kept = text_ids[: int(room * MAX_TEXT_SHARE)]
        evidence_ids, used = self._write(evidence, room - len(kept))
        if not used:
            kept = text_ids[:room]
        return EncodedPair(*self._pair.fill(kept, evidence_ids), used, len(kept) < len(text_ids))

    def _write(self, evidence: Sequence[Evidence], room: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Choose the triples that fit in `room` tokens, and write them. Returns (token ids, positions used)."""
        ids_of = self._tokens.of_piece
        subjects: dict[str, dict[str, list[tuple[int, ...]]]] = {}
        used: list[int] = []
        for position, triple in enumerate(evidence):
            subject, predicate = _words(triple.subject.label), _words(triple.predicate.label)
            groups = subjects.get(subject)
            pieces = groups.get(predicate) if groups is not None else None
            value = ids_of(" " + _words(triple.object.label))[:MAX_OBJECT_TOKENS]
            if pieces is not None and value in pieces:  # another named graph says the same
                used.append(position)
                continue
            cost = len(value)
            if pieces is None:
                cost += len(ids_of(" | " + predicate + ":"))
            else:
                cost += len(ids_of(","))
            if groups is None:
                cost += len(ids_of((" ; " if subjects else " ") + subject))
            if cost > room:
                continue
            room -= cost
            subjects.setdefault(subject, {}).setdefault(predicate, []).append(value)
            used.append(position)
        ids: list[int] = []
        for number, (subject, groups) in enumerate(subjects.items()):
            ids += ids_of((" ; " if number else " ") + subject)
            for predicate, values in groups.items():
                ids += ids_of(" | " + predicate + ":")
                for index, value in enumerate(values):
                    if index:
                        ids += ids_of(",")
                    ids += value
        return tuple(ids), tuple(used)


@dataclass(frozen=True, slots=True)
class _Template:
    """The special tokens that the tokenizer's post-processor puts before, between and after."""

    parts: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]  # (ids, type ids) before each sequence, and at the end
    sequence_types: tuple[int, ...]

    @property
    def specials(self) -> int:
        return sum(len(ids) for ids, _ in self.parts)

    def fill(self, first: Sequence[int], second: Sequence[int]) -> tuple[list[int], list[int]]:
        ids, types = list(self.parts[0][0]), list(self.parts[0][1])
        for sequence, kind, (after, after_types) in zip(
            (first, second), self.sequence_types, self.parts[1:], strict=False
        ):
            ids += sequence
            ids += after
            types += [kind] * len(sequence)
            types += after_types
        return ids, types


def _template(tokenizer: Tokenizer, *, pair: bool) -> _Template:
    """Learn the template from a probe: `a` as each sequence."""
    probe = tokenizer.encode("a", "a") if pair else tokenizer.encode("a")
    parts: list[tuple[list[int], list[int]]] = [([], [])]
    types: list[int] = []
    inside = False
    for token, kind, special in zip(probe.ids, probe.type_ids, probe.special_tokens_mask, strict=True):
        if special:
            inside = False
            parts[-1][0].append(token)
            parts[-1][1].append(kind)
        elif not inside:
            inside = True
            types.append(kind)
            parts.append(([], []))
    if len(types) != 1 + pair:
        raise ValueError("the tokenizer puts no special token between two sequences, so pairs can't be told apart")
    return _Template(tuple((tuple(ids), tuple(kinds)) for ids, kinds in parts), tuple(types))


def _words(label: str) -> str:
    return " ".join(label[:MAX_LABEL].split())  # a literal may be a book, of which little has room
