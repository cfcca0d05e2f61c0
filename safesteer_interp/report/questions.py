"""What a reader wants to know, which claims answer it, and how each of their verdicts reads in plain words.

The words are fixed before anything is measured: one wording per verdict, and no number. What comes out decides which is shown.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """One claim, and the sentence for each verdict it may get. Without a claim: the finding's own claims, decided ones first."""

    finding: str
    claim: str = ""
    supported: str = ""
    contradicted: str = ""
    undecided: str = ""
    most: int = 1
    """How many claims are told, where none is named."""


@dataclass(frozen=True)
class Question:
    """A question, an id for links, and the points that answer it."""

    id: str
    asks: str
    points: tuple[Point, ...]


QUESTIONS = (
    Question(
        "readable",
        "Where is harm readable?",
        (
            Point(
                "prefill_separability",
                "separable_text",
                "Before the first answer token, harmful requests in plain text can be told from harmless ones.",
                "Before the first answer token, harmful requests in plain text cannot be told from harmless ones well enough.",
                "It is open how well harmful requests in plain text can be told from harmless ones before the first answer token.",
            ),
            Point(
                "prefill_separability",
                "separable_sd",
                "Harmful requests shown as pictures can be told from harmless ones there as well.",
                "Harmful requests shown as pictures are not told from harmless ones well enough there.",
                "It is open whether harmful requests shown as pictures are told from harmless ones well enough there.",
            ),
            Point(
                "layer_choice",
                "onset_later_typo",
                "Typed into an image, harm becomes readable in later layers than in plain text.",
                "Typed into an image, harm becomes readable no later than in plain text.",
                "It is open whether harm typed into an image becomes readable in later layers than in plain text.",
            ),
        ),
    ),
    Question(
        "slips",
        "Does harm borne by an image slip past?",
        (
            Point(
                "modality_stealth",
                "slips_past_sd",
                "The same harmful request is refused far less often as a picture than as plain text.",
                "The same harmful request is not refused far less often as a picture than as plain text.",
                "It is open whether the same harmful request is refused far less often as a picture than as plain text.",
            ),
            Point(
                "modality_stealth",
                "stealthier_sd",
                "On the probe's axis its state lies nearer to the harmless requests as well, by more than along random directions.",
                "On the probe's axis its state lies no nearer to the harmless requests.",
                "Whether its state also lies nearer to the harmless requests for reasons of harm is open.",
            ),
        ),
    ),
    Question(
        "lost",
        "Where does it get lost?",
        (
            Point("patching_text_to_image", most=2),
            Point(
                "refusal_lens",
                "image_silences_refusal_sd",
                "As a picture, a harmful request gives refusal words less probability at the first answer token.",
                "As a picture, a harmful request gives refusal words no less probability at the first answer token.",
                "It is open whether a harmful picture gives refusal words less probability at the first answer token.",
            ),
        ),
    ),
    Question(
        "msav",
        "Does the alignment vector (MSAV) work, and why?",
        (
            Point(
                "alignment_vector",
                "printed_raises_refusal_sd",
                "Applied as printed in the paper, it makes refusals of harmful pictures likelier.",
                "Applied as printed in the paper, it makes refusals of harmful pictures less likely.",
                "It is open whether, applied as printed in the paper, it makes refusals of harmful pictures likelier.",
            ),
            Point(
                "alignment_controls",
                "lowers_not_refused",
                "Turned towards text and of unit length, it gets more harmful pictures refused than random vectors do.",
                "Turned towards text and of unit length, it does not get more harmful pictures refused.",
                "It is open whether, turned towards text and of unit length, it gets more harmful pictures refused than random vectors do.",
            ),
            Point(
                "alignment_controls",
                "refuses_more_than_a_bias",
                "It does more than a plain bias on refusal words of the same size.",
                "It does less than a plain bias on refusal words of the same size.",
                "It is not shown to do more than a plain bias on refusal words of the same size.",
            ),
        ),
    ),
    Question(
        "probe",
        "Does the probe?",
        (
            Point(
                "decoding_separability",
                "sign_test_prompt",
                "While the answer is written, the paper's probe scores refusals above compliance, as its rule needs.",
                "While the answer is written, the paper's probe scores refusals below compliance, the wrong way round for its rule.",
                "It is open whether the paper's probe scores refusals above compliance while the answer is written, as its rule needs.",
            ),
            Point(
                "defense_ablation",
                "probe_lowers_asr",
                "Guided by the probe alone, the model lets fewer harmful pictures through.",
                "Guided by the probe alone, the model lets more harmful pictures through.",
                "It is open whether, guided by the probe alone, the model lets fewer harmful pictures through.",
            ),
        ),
    ),
    Question(
        "defense",
        "Which defense, and at what price?",
        (
            Point(
                "defense_comparison",
                "safesteer_lets_least_through",
                "SafeSteer lets fewer harmful pictures through than every other defense compared.",
                "SafeSteer does not let the fewest harmful pictures through: another defense lets through less.",
                "It is open which defense lets the fewest harmful pictures through: SafeSteer is not clear of the best other.",
            ),
            Point(
                "defense_comparison",
                "safesteer_spares_the_harmless",
                "It does not refuse 10 points more of the harmless requests.",
                "It refuses at least 10 points more of the harmless requests.",
                "Whether it refuses 10 points more of the harmless requests is open.",
            ),
        ),
    ),
)
