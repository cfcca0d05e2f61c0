"""Probes: is harm readable from a state, since which layer, in which form, and may the probe guide decoding?

- `DecodingProbe`: principal components, then logistic regression; a scikit-learn estimator
- `fit_probe`: the probe of a trace with its sign test, ready to guide
- `training_trace`: the states such fits need
- `held_out`: the rows kept for the sign test
- `fit_prompt`: fitted on prompts, as in the paper
- `fit_centred`: the same, with each step's mean removed
- `fit_token`: fitted on generated tokens
- `fit_contrastive`: fitted on candidates of single choices
- `Offered`: candidates of single choices, and whether a refusal follows
- `run_sign_test`: the sign test of a probe among candidates
- `TokenSpec`: which answers are generated and which of their tokens are read
- `TokenStates`: states of emitted tokens, refusals and compliances
- `token_states`: those of a trace
- `SignTest`: whether candidates before a refusal score above those before a compliance
- `sign_test`: the test itself
- `StepCentring`: removes the mean state of each decoding step
- `Rows`: states of labelled requests at some sites
- `Resampling`: how intervals are drawn
- `separability`: AUROC of held-out scores, by site, group and width
- `transfer`: fitted on one group, scored on the others
- `fold_stability`: how much directions of different folds agree
- `out_of_fold`: the held-out scores
- `WIDTHS`: probe widths of the layer ablation
- `pair_folds`: cross-validation that keeps pairs whole
- `split_folds`: a train/test split in the same form
- `onset`: the first site at which harm is readable
- `Onset`: that site with its interval
- `shuffled_labels`: separability of shuffled labels
- `shuffled_maximum`: that of the best site of shuffled labels
- `random_direction`: of random directions
- `bag_of_words`: of the prompts' words
- `prompt_length`: of their lengths
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safesteer_interp.lazy import attach

if TYPE_CHECKING:
    from safesteer_interp.probes.centring import StepCentring
    from safesteer_interp.probes.controls import bag_of_words, prompt_length, random_direction, shuffled_labels, shuffled_maximum
    from safesteer_interp.probes.decoding_probe import DecodingProbe
    from safesteer_interp.probes.fits import fit_centred, fit_contrastive, fit_prompt, fit_token, run_sign_test
    from safesteer_interp.probes.fitting import fit_probe, held_out, training_trace
    from safesteer_interp.probes.folds import pair_folds, split_folds
    from safesteer_interp.probes.offered import Offered
    from safesteer_interp.probes.onsets import Onset, onset
    from safesteer_interp.probes.rows import Resampling, Rows
    from safesteer_interp.probes.separation import WIDTHS, fold_stability, out_of_fold, separability, transfer
    from safesteer_interp.probes.signs import SignTest, sign_test
    from safesteer_interp.probes.token_spec import TokenSpec
    from safesteer_interp.probes.tokens import TokenStates, token_states

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "decoding_probe": ("DecodingProbe",),
        "fitting": ("fit_probe", "training_trace", "held_out"),
        "fits": ("fit_prompt", "fit_centred", "fit_token", "fit_contrastive", "run_sign_test"),
        "offered": ("Offered",),
        "token_spec": ("TokenSpec",),
        "tokens": ("TokenStates", "token_states"),
        "signs": ("SignTest", "sign_test"),
        "centring": ("StepCentring",),
        "rows": ("Rows", "Resampling"),
        "separation": ("separability", "transfer", "fold_stability", "out_of_fold", "WIDTHS"),
        "folds": ("pair_folds", "split_folds"),
        "onsets": ("onset", "Onset"),
        "controls": ("shuffled_labels", "shuffled_maximum", "random_direction", "bag_of_words", "prompt_length"),
    },
)
