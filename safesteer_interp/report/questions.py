"""What a reader wants to know, which claims answer it, and how each of their verdicts reads in plain words.

The words are fixed before anything is measured: one wording per verdict, and no number. What comes out decides which is shown. A claim is
contradicted where its whole interval lies on the other side of its edge, so that its wording is the opposite, not the absence, of an effect
whose edge is zero; edges that are not zero are told behind the sentence. `{compared}` becomes "more than", "fewer than" or "as many as" and
what the claim's number is a difference to.
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
                "Before the first answer token, harmful requests in plain text are told well from harmless ones.",
                "Before the first answer token, harmful requests in plain text are not told well from harmless ones.",
                "It is open how well harmful requests in plain text are told from harmless ones before the first answer token.",
            ),
            Point(
                "prefill_separability",
                "separable_sd",
                "Harmful requests shown as pictures are told well from harmless ones there, too.",
                "Harmful requests shown as pictures are not told well from harmless ones there.",
                "It is open whether harmful requests shown as pictures are told well from harmless ones there.",
            ),
            Point(
                "layer_choice",
                "onset_later_typo",
                "At the layer where harm in plain text becomes readable, the same harm typed into an image is less readable yet.",
                "At the layer where harm in plain text becomes readable, the same harm typed into an image is more readable already.",
                "It is open whether harm typed into an image is less readable at the layer where harm in plain text becomes readable.",
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
                "On the probe's axis its state lies farther from the harmless requests.",
                "Whether its state also lies nearer to the harmless requests for reasons of harm is open.",
            ),
        ),
    ),
    Question(
        "lost",
        "Where does it get lost?",
        (
            Point(
                "harm_by_stage",
                "eyes_tell_harm_sd",
                "The vision tower itself tells harm in pictures well.",
                "The vision tower itself does not tell harm in pictures well.",
                "It is open how well the vision tower itself tells harm in pictures.",
            ),
            Point(
                "harm_by_stage",
                "decoder_makes_harm_typo",
                "Harm typed into an image is told clearly better at the last token than by the mean of what the projector gives.",
                "Harm typed into an image is not told clearly better at the last token than by the mean of what the projector gives.",
                "It is open whether the last token tells harm typed into an image better than the mean of what the projector gives.",
            ),
            Point(
                "patching_text_to_image",
                "last_token_restores_sd",
                "Late in the network, the text's last token put into the picture's run restores most of the log-odds of refusal.",
                "Late in the network, the text's last token put into the picture's run restores less than half of the log-odds of refusal.",
                "It is open whether, late in the network, the text's last token restores most of the picture's lost log-odds of refusal.",
            ),
            Point(
                "patching_text_to_image",
                "answers_refuse_again_sd",
                "With that state more of the answers to harmful pictures themselves are refusals.",
                "With that state fewer of the answers to harmful pictures themselves are refusals.",
                "It is open whether with that state more of the answers to harmful pictures themselves are refusals.",
            ),
            Point(
                "patching_text_to_image",
                "answers_refuse_again_typo",
                "With that state more of the answers to harm typed into an image are refusals.",
                "With that state fewer of the answers to harm typed into an image are refusals.",
                "It is open whether with that state more of the answers to harm typed into an image are refusals.",
            ),
            Point(
                "readable_and_used",
                "probe_direction_is_not_enough_sd",
                "What the probe reads does not decide: along its direction alone, less than half of the lost log-odds comes back.",
                "What the probe reads is used: along its direction alone, most of the lost log-odds comes back.",
                "It is open whether what the probe reads is what decides.",
            ),
            Point(
                "refusal_lens",
                "image_silences_refusal_sd",
                "As a picture, a harmful request gives refusal words less probability at the first answer token.",
                "As a picture, a harmful request gives refusal words more probability at the first answer token.",
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
                "Turned towards text and of unit length, it gets more harmful pictures refused than no edit and than random vectors do.",
                "Turned towards text and of unit length, it gets fewer harmful pictures refused than without it.",
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
                "orders_candidates_prompt",
                "Among the candidates for the next token, the paper's probe prefers those that lead to a refusal, as its rule needs.",
                "Among the candidates for the next token, the paper's probe prefers those that lead away from a refusal.",
                "It is open whether, among the candidates for the next token, the paper's probe prefers those that lead to a refusal.",
            ),
            Point(
                "decoding_separability",
                "more_than_token_identity_prompt",
                "It knows more there than which token it looks at.",
                "It knows less there than which token it looks at: the token alone orders candidates better.",
                "It is not shown to know more there than which token it looks at.",
            ),
            Point(
                "defense_ablation",
                "beats_strings_and_bias",
                "SafeSteer as calibrated does better than refusal strings and than a bias on refusal words, which look at no state.",
                "SafeSteer as calibrated does worse than the better of refusal strings and a bias on refusal words.",
                "SafeSteer as calibrated is not shown to do better than refusal strings and a bias on refusal words.",
            ),
        ),
    ),
    Question(
        "defense",
        "Which defense, and at what price?",
        (
            Point(
                "defense_ablation",
                "selective_paper",
                "SafeSteer as printed gains more refusals of harmful requests than it costs answers to harmless ones.",
                "SafeSteer as printed costs more than it gains: harmful requests let through plus harmless ones refused go up.",
                "It is open whether SafeSteer as printed gains more refusals of harmful requests than it costs answers to harmless ones.",
            ),
            Point(
                "defense_comparison",
                "safesteer_lets_least_through",
                "SafeSteer lets fewer harmful pictures through than every other defense compared, by every list of refusals.",
                "SafeSteer does not let the fewest harmful pictures through: it lets through {compared}.",
                "It is open which defense lets the fewest harmful pictures through: SafeSteer let through {compared}.",
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
