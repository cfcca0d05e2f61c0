"""Vectors: directions in the residual stream that know their site, and where they come from.

- `AlignmentVector`: MSAV, the modal semantic alignment vector
- `alignment_vectors`: MSAV at every site of a trace
- `alignment_vector`: of two sets of states
- `ApplicationRule`: how MSAV is applied
- `PAPER_RULE`: as printed
- `CORRECTED_RULE`: towards text, at unit length
- `PROJECTION_RULE`: towards text, as far as the state lies along mu
- `Direction`: a unit vector with its site, read, model and residual norm
- `random_direction`: one drawn at random, as a control
- `mean_difference`: mean of some rows minus mean of others
- `median_norm`: the unit of steering strength
- `save_directions`: several in one file
- `load_directions`: what that wrote
- `refusal_directions`: difference in means of harmful and harmless, at every site of a trace
- `refusal_direction`: of states
- `template_reads`: the tokens behind a request, where candidates are read
- `eligible`: the candidates in the first 80 % of the layers
- `DifferenceBootstrap`: intervals of a mean difference's norm and cosines
- `pairwise_cosine`: whether single pairs move the same way
- `export_control_vector`: directions for llama.cpp (GGUF)
- `import_control_vector`: directions of such a file
- `export_vllm_lens`: directions for a vLLM server with vllm-lens
- `import_vllm_lens`: directions of such a file
- `export_easysteer`: directions for one with EasySteer
- `export_probe`: a probe for states that a server captured
- `import_probe`: what that wrote
- `probe_direction`: the direction a probe reads along
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safesteer_interp.lazy import attach

if TYPE_CHECKING:
    from safesteer_interp.vectors.alignment import (
        CORRECTED_RULE,
        PAPER_RULE,
        PROJECTION_RULE,
        AlignmentVector,
        ApplicationRule,
        alignment_vector,
        alignment_vectors,
    )
    from safesteer_interp.vectors.control_vector import export_control_vector, import_control_vector
    from safesteer_interp.vectors.direction import (
        Direction,
        load_directions,
        mean_difference,
        median_norm,
        random_direction,
        save_directions,
    )
    from safesteer_interp.vectors.refusal import eligible, refusal_direction, refusal_directions, template_reads
    from safesteer_interp.vectors.resampling import DifferenceBootstrap, pairwise_cosine
    from safesteer_interp.vectors.served import (
        export_easysteer,
        export_probe,
        export_vllm_lens,
        import_probe,
        import_vllm_lens,
        probe_direction,
    )

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "alignment": (
            "AlignmentVector",
            "alignment_vectors",
            "alignment_vector",
            "ApplicationRule",
            "PAPER_RULE",
            "CORRECTED_RULE",
            "PROJECTION_RULE",
        ),
        "direction": ("Direction", "random_direction", "mean_difference", "median_norm", "save_directions", "load_directions"),
        "refusal": ("refusal_directions", "refusal_direction", "template_reads", "eligible"),
        "resampling": ("DifferenceBootstrap", "pairwise_cosine"),
        "control_vector": ("export_control_vector", "import_control_vector"),
        "served": ("export_vllm_lens", "import_vllm_lens", "export_easysteer", "export_probe", "import_probe", "probe_direction"),
    },
)
