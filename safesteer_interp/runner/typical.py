"""What is known of the shipped findings before they first ran on a machine: which take long, and which use the same answers.

Several processes begin the longest first, so that none is left with a long one when the others have ended; what uses answers that another
finding is about to write waits for them, so that they are not written twice. Neither changes a number.
"""

from __future__ import annotations

from collections.abc import Mapping

SECONDS: Mapping[str, float] = {
    "patching_text_to_image": 500, "attention_routes": 290, "defense_comparison": 230, "guidance_budget": 220, "defense_ablation": 190,
    "decoding_separability": 150, "component_attribution": 150, "readable_and_used": 140, "refusal_direction": 140,
    "steering_dose_response": 110, "image_token_lens": 100, "adaptive_probe": 100, "modality_gap": 55, "case_study": 55,
    "alignment_controls": 50, "typography_or_text": 50, "alignment_vector": 40, "defense_composition": 30, "refusal_lens": 20,
    "harm_by_stage": 15, "layer_choice": 10, "prefill_separability": 7, "judge_agreement": 5, "modality_transfer": 5,
    "probe_training": 5, "paper_numbers": 4, "modality_stealth": 2,
}  # fmt: skip
"""Finding -> seconds of one core with mini in the quick profile, traces made; only their order matters."""
AFTER: Mapping[str, tuple[str, ...]] = dict.fromkeys(
    ("judge_agreement", "defense_composition", "paper_numbers"), ("defense_comparison",)
)  # fmt: skip
"""Finding -> those whose answers it uses as well."""
