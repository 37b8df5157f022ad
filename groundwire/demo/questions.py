"""The six questions that the demo asks. Their countries are held out of training."""

from dataclasses import dataclass

from groundwire.demo.claims import Label


@dataclass(frozen=True, slots=True)
class Question:
    """A text, what it shows, and the label that the graph gives it; None when there is nothing to judge."""

    title: str
    text: str
    expected: Label | None


QUESTIONS = (
    Question("a true claim", "Canberra is the capital of Australia.", "supported"),
    Question("a false claim", "Sydney is the capital of Australia.", "contradicted"),
    Question(
        "a claim that the graph can't decide", "The highest mountain in Cuba is Pico Turquino.", "not_enough_info"
    ),
    Question("a true claim with typos", "Nairobi is teh captial ciy of Kenya.", "supported"),
    Question(
        "a true claim, adversarially changed: a Cyrillic а in Brazil, 1 for i, @ for a",
        "An off1cial langu@ge of Br\u0430zil is Portuguese.",
        "supported",
    ),
    Question("nothing to ground", "The meeting has been moved to Thursday afternoon.", None),
)
