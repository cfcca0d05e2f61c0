"""The figures and tables of the SafeSteer paper (arXiv 2605.11716 v1): what each shows and says, and how the protocol differs here.

Facts about the paper and about this suite's protocol; what this suite finds is looked up in its claims (`replication.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

ARXIV = "2605.11716"


@dataclass(frozen=True)
class Item:
    """A figure, table or finding of the paper."""

    key: str
    """As `Analysis.replicates` and `Claim.source` name it."""
    shows: str
    says: str
    """What the paper concludes from it; "" where it is a drawing of the method."""
    differs: str = ""
    """How the protocol here deviates."""


_DATA = "Bundled pairs in place of MM-SafetyBench and MM-Vet; harmless twins of the same form in place of MM-Vet."
_JUDGE = "Refusal strings and degeneration decide, not LlamaGuard-3: “not refused” is not attack success."

ITEMS = (
    Item("Fig. 1", "The idea, drawn", ""),
    Item(
        "Fig. 2(a)",
        "States of the last prompt token by class and attack",
        "Harmful and harmless queries are separated by a clear margin at prefill.",
        f"{_DATA} Scores on the probe's axis with held-out pairs in place of a t-SNE map.",
    ),
    Item(
        "Fig. 2(b)",
        "States of the first answer tokens",
        "Early tokens of compliance score below tokens of refusal.",
        f"{_DATA} Compared on generated answers by outcome, with the same test along random directions.",
    ),
    Item(
        "section 3, finding 2",
        "Pictures against text",
        "Image attacks are stealthier: they lie nearer to the harmless cluster.",
        f"{_DATA} The same pair in every form, so that distances are paired; refusals are counted besides.",
    ),
    Item("Fig. 3", "The method, drawn", ""),
    Item(
        "Fig. 4",
        "Loss of the probe while it is fitted",
        "It converges quickly.",
        "Curves of several random starts, and how many pairs it needs.",
    ),
    Item(
        "Fig. 5",
        "One answer, token by token",
        "Guidance replaces the tokens of compliance by those of a refusal.",
        "All cases of the profile, chosen by a rule; statistics over them.",
    ),
    Item(
        "Fig. 6",
        "Attack success against K and the number of guided steps",
        "Small K is best; more guided steps add little.",
        f"{_JUDGE} Controls by a random probe and by refusal strings at each K.",
    ),
    Item(
        "Fig. 7",
        "States at a first, a middle and a deeper layer",
        "Middle and deeper layers separate harmful from harmless.",
        "AUROC at every layer with held-out pairs, in place of three scatter plots.",
    ),
    Item("Fig. 8", "States at later steps", "Separability fades at later steps.", "AUROC of refusals against compliance at every step."),
    Item(
        "Table 1",
        "SafeSteer against ECSO, MLLM-Protector and MRD on three models",
        "SafeSteer has the lowest attack success and keeps utility.",
        f"{_JUDGE} Bundled pairs on the embedded model; LLaVA-1.5, Qwen2.5-VL and Qwen3-VL run with --model.",
    ),
    Item(
        "Table 2",
        "Training time and tokens per second",
        "SafeSteer costs 5 % of the speed; the probe takes 0.03 h to fit.",
        "Ratio to no defense on the same machine and batch, in place of absolute speed.",
    ),
    Item(
        "Table 3",
        "Attack success without probe, without MSAV, without both",
        "Both parts help, and together most.",
        f"{_JUDGE} Random controls of each part are added.",
    ),
)
