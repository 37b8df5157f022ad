"""Greedy substitution against any function from texts to probabilities (Jin et al. 2020 "TextFooler").

First each word is left out once, to see how much the true label rests on it; then the words are replaced, the
weightiest first, each by the candidate that leaves the true label least. When as many are changed as may be, it begins
again with the words not tried yet; and while queries are left, once more with the next word in the lead, which finds
words that fool together. No text is asked for twice. Many texts are attacked side by side, so that the function is
called with large batches.

N texts, C labels.
"""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groundwire.export.attacks.text.meaning import fixed_words, words_of

Floats = NDArray[np.float64]
# Texts -> probabilities [N, C]: a PyTorch model, a bundle on ONNX Runtime, or a server.
Predict = Callable[[Sequence[str]], Floats]
# The same, told which of the attacked texts each one comes from [N], for models that read more than the text.
PredictFor = Callable[[Sequence[str], Sequence[int]], Floats]
# Text -> other spellings or words for each span (start, end) that may change.
Candidates = Callable[[str], Mapping[tuple[int, int], Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Budget:
    """What an attack may spend on a text: a share of its words to change (at least one word), and queries."""

    edits: float = 0.15
    queries: int = 200

    def words(self, text: str) -> int:
        """Most words that may change."""
        return max(1, math.floor(self.edits * len(words_of(text))))


@dataclass(frozen=True, slots=True)
class TextResult:
    """What an attack found for one text.

    `text` is the worst text found: wrong, or with the least probability of the true label. `edits` are its changed
    words, `queries` texts read, both up to the first success. `clean` and `attacked` are the labels before and after,
    `confidence` the probability of the latter.
    """

    original: str
    text: str
    label: int
    clean: int
    attacked: int
    confidence: float
    edits: int
    queries: int

    @property
    def robust(self) -> bool:
        """Whether the true label stood."""
        return self.attacked == self.label


def attack_texts(
    predict: Predict,
    texts: Sequence[str],
    labels: Sequence[int],
    candidates: Candidates,
    budget: Budget | None = None,
    *,
    batch_size: int = 256,
) -> list[TextResult]:
    """Attack each text until its label is wrong or the budget is spent.

    Args:
        predict: texts -> probabilities [N, C]. Nothing else is known of the model.
        texts: the texts.
        labels: their true labels.
        candidates: what may stand for what.
        budget: words and queries for each text; 15 % and 200 when None.
        batch_size: most texts in one call of `predict`.

    Returns:
        One result a text, in order. Texts that are wrong from the start come back as they are, after one query.
    """
    return attack_texts_for(lambda asked, _: predict(asked), texts, labels, candidates, budget, batch_size=batch_size)


def attack_texts_for(
    predict: PredictFor,
    texts: Sequence[str],
    labels: Sequence[int],
    candidates: Candidates,
    budget: Budget | None = None,
    *,
    batch_size: int = 256,
) -> list[TextResult]:
    """As `attack_texts`, for a function that is told the position of the text that each variant comes from.

    So a model that also reads evidence or entities, given with the data, can look them up.
    """
    budget = budget or Budget()
    attacks = [_attack(text, label, candidates, budget) for text, label in zip(texts, labels, strict=True)]
    results: list[TextResult | None] = [None] * len(attacks)
    waiting = {n: next(attack) for n, attack in enumerate(attacks)}
    while waiting:
        asked = [text for request in waiting.values() for text in request]
        owners = [n for n, request in waiting.items() for _ in request]
        parts = [slice(n, n + batch_size) for n in range(0, len(asked), batch_size)]
        answers = np.concatenate([predict(asked[part], owners[part]) for part in parts])
        following: dict[int, list[str]] = {}
        place = 0
        for n, request in waiting.items():
            answer = answers[place : place + len(request)]
            place += len(request)
            try:
                following[n] = attacks[n].send(answer)
            except StopIteration as done:
                results[n] = done.value
        waiting = following
    return [result for result in results if result is not None]


def _attack(text: str, label: int, candidates: Candidates, budget: Budget) -> Generator[list[str], Floats, TextResult]:
    """One attack: yields texts, is sent their probabilities."""
    (first,) = yield [text]
    spent = 1
    clean = int(first.argmax())
    best_text, best, edits = text, first, 0

    def result() -> TextResult:
        attacked = int(best.argmax())
        return TextResult(text, best_text, label, clean, attacked, float(best[attacked]), edits, spent)

    spans = {span: list(options) for span, options in candidates(text).items()}
    if clean != label or not spans:
        return result()
    # How much the label rests on each word. Half of the queries at most, so that some are left to attack with.
    # A text of one word can't lose it: a server refuses what is blank.
    whole = [(start, end) for start, end in spans if (text[:start] + text[end:]).strip()]
    looked = whole[: max(1, (budget.queries - spent) // 2)] or list(spans)
    if whole and budget.queries - spent > len(looked):
        left_out = yield [text[:start] + text[end:] for start, end in looked]
        spent += len(looked)
        order = sorted(looked, key=lambda span: float(left_out[looked.index(span), label]))
    else:
        order = looked
    fixed = fixed_words(text)
    most = budget.words(text)
    widths = {span: len(words_of(text[slice(*span)])) for span in order}  # the name of an entity may have several words
    order = [span for span in order if widths[span] <= most]
    answered: dict[str, Floats] = {}
    for turn in range(len(order)):
        before = spent
        changed: dict[tuple[int, int], str] = {}
        low = float(first[label])
        for span in (*order[turn:], *order[:turn]):
            if sum(widths[other] for other in changed) + widths[span] > most:
                # Start again with the words not tried yet: the weightiest may be one that a defence puts right.
                changed, low = {}, float(first[label])
            trials = {_replace(text, changed | {span: option}): option for option in spans[span]}
            trials = {trial: option for trial, option in trials.items() if fixed_words(trial) == fixed}
            new = [trial for trial in trials if trial not in answered][: budget.queries - spent]
            if new:
                spent += len(new)
                answered |= dict(zip(new, (yield new), strict=True))
            known = [trial for trial in trials if trial in answered]
            if not known:
                continue
            wrong = [trial for trial in known if int(answered[trial].argmax()) != label]
            # Of those that fool, the most confident one.
            worst = (
                max(wrong, key=lambda trial: float(answered[trial].max()))
                if wrong
                else min(known, key=lambda trial: float(answered[trial][label]))
            )
            answer = answered[worst]
            if wrong or answer[label] < low:
                changed[span], low = trials[worst], float(answer[label])
                if wrong or low < best[label]:
                    best_text, best, edits = worst, answer, sum(widths[other] for other in changed)
            if wrong:
                return result()
        if spent >= budget.queries or spent == before:
            break
    return result()


def _replace(text: str, changed: Mapping[tuple[int, int], str]) -> str:
    for (start, end), word in sorted(changed.items(), reverse=True):
        text = text[:start] + word + text[end:]
    return text
