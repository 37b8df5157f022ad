"""The tokens of texts, with those kept that were met before: tokenizing is most of the cost of encoding a row."""

import json
import re
from functools import lru_cache, partial
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import Model

MAX_KEPT_WORD = 64  # code points: what is longer is no word, and would fill the memory for those met before
_MOST_KEPT = 65_536
# What BERT's pre-tokenizer takes for a word by itself, in text of ASCII that prints.
_WORD = re.compile(r"[A-Za-z0-9]+|[!-/:-@\[-`{-~]")


class Tokens:
    """What a Hugging Face tokenizer gives, without special tokens. May be used from several threads at once.

    The tokenizer takes a special token in a text for what it says (`encode_special_tokens`), and is not changed later.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        steps = json.loads(tokenizer.to_str())
        self._by_word = _splits_at_spaces(steps)
        words = _PlainWords(tokenizer.model, steps) if self._by_word and _is_plain(steps) else None
        # No methods of this object: it would keep itself alive, and what is unloaded should be gone at once.
        self._tokenize = partial(_tokenize, tokenizer, words)
        self.of_piece = lru_cache(maxsize=_MOST_KEPT)(self._tokenize)

    def of_text(self, text: str) -> tuple[int, ...]:
        """The tokens of a text. Where its words don't change each other's, those met before are not tokenized again."""
        if not self._by_word:
            return self._tokenize(text)
        ids: list[int] = []
        for word in text.split(" "):
            ids += self.of_piece(word) if len(word) <= MAX_KEPT_WORD else self._tokenize(word)
        return tuple(ids)


class _PlainWords:
    """The tokens of ASCII that prints, of the tokenizer's model alone.

    BERT's other steps do nothing with it but put it in lower case, if they are asked to, and end a word at each space
    and around each sign.
    """

    def __init__(self, model: Model, steps: dict[str, Any]) -> None:
        self._model = model
        self._lowers = (steps["normalizer"] or {}).get("lowercase", False)

    def __call__(self, piece: str) -> tuple[int, ...]:
        words = _WORD.findall(piece.lower() if self._lowers else piece)
        return tuple([token.id for word in words for token in self._model.tokenize(word)])


def _splits_at_spaces(steps: dict[str, Any]) -> bool:
    """Whether the tokens of a text are those of its parts between spaces: so it is with BERT's own steps.

    Its normaliser looks at one character at a time, its pre-tokenizer ends a word at every space and its model sees one
    word at a time (Devlin et al. 2019). Of other steps that isn't known.
    """
    kinds = [(steps[name] or {}).get("type") for name in ("normalizer", "pre_tokenizer", "model")]
    return (
        kinds[0] in (None, "BertNormalizer")
        and kinds[1:] == ["BertPreTokenizer", "WordPiece"]
        and not any(" " in token["content"] for token in steps["added_tokens"])
    )


def _is_plain(steps: dict[str, Any]) -> bool:
    """Whether no token was added that is looked for before a text is split into words."""
    return all(token["special"] for token in steps["added_tokens"])


def _tokenize(tokenizer: Tokenizer, words: _PlainWords | None, piece: str) -> tuple[int, ...]:
    if words is not None and piece.isascii() and piece.isprintable():
        return words(piece)
    return tuple(tokenizer.encode(piece, add_special_tokens=False).ids)
