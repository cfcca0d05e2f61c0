"""The words of the suite, each explained in a sentence, and a way to explain them wherever they stand on a page."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

GLOSSARY: dict[str, str] = {
    "TEXT": "The harm stands in words, and there is no image.",
    "CB": "The harm stands in words, beside a blank image (the benchmark's “changed question”).",
    "SD": "The harm is shown as a picture; the words name nothing harmful. Named after Stable Diffusion, which drew the benchmark's.",
    "TYPO": "The harm is written inside the image, as typography; the words beside it name nothing harmful.",
    "SD_TYPO": "The harm is shown as a picture with its name written below it, inside the image.",
    "pair": "A harmful request and its harmless twin of the same form: the unit of every split, fold and interval.",
    "twin": "The harmless request that shares form and wording with a harmful one.",
    "probe": "A logistic regression on a few principal components of a state that tells harmful from harmless requests.",
    "AUROC": "Probability that a random harmful request scores above a random harmless one: 0.5 is chance, 1 is perfect.",
    "MSAV": "Modal semantic alignment vector: mean state of harmful pictures minus mean state of the same requests as text (SD minus CB).",
    "log-odds": "log(p / (1 - p)): 0 is even, +1 nat makes the odds 2.7 times as high.",
    "nats": "Unit of log-probabilities and log-odds with the natural logarithm; 0.69 nats are a factor of two.",
    "residual stream": "The state a layer reads and adds to: what the model knows at a token, layer by layer.",
    "logit lens": "Reading a layer's state as if it were the last: which token would come next if the model stopped there.",
    "refusal direction": "Difference of the mean states of harmful and harmless requests at one layer; ablated, models refuse less.",
    "not refused": "No refusal by the suite's rule and not degenerate. It is called attack success only where a judge of harm ran.",
    "over-refusal": "Share of harmless requests that are refused.",
    "degenerate": "An answer that loops, is empty or is no text.",
    "perplexity": "How surprised the undefended model is by a text: exp of the mean negative log-probability per token.",
    "shuffled labels": "Control: the same measurement with harmful and harmless exchanged at random within pairs.",
    "random direction": "Control: the same measurement along directions that know nothing.",
    "bag of words": "Control: what the words of the request alone give away, without the model.",
    "resid_post": "Site: the residual stream after a decoder layer, e.g. resid_post.12.",
    "attn_out": "Site: what the attention of a layer adds to the residual stream.",
    "mlp_out": "Site: what the feed-forward part of a layer adds to the residual stream.",
    "final_norm": "Site: the state after the last normalisation, from which the next token is read.",
    "embed": "Site: the token embeddings before the first layer.",
    "last_prompt": "Read: the last token of the prompt, after which the answer begins.",
    "image_mean": "Read: the mean over the image's tokens.",
    "Holm": "Adjustment of p for the number of claims of a finding: one in twenty findings errs by chance, not one in twenty claims.",
    "ECSO": "Defense that looks at its own answer and, if unsafe, answers again from a caption instead of the image (arXiv 2403.09572).",
    "CoCA": "Defense that amplifies what a safety prompt changes in the next-token distribution (arXiv 2409.11365).",
    "mini": "The embedded model: SmolLM2-135M-Instruct with a trained vision tower, a real model of 142 million parameters.",
    "planted": "The known-answer model, into which a harm direction and a modality gap were put: it proves machinery and is no finding.",
}
"""Word -> what it means. Matched in the case it has here; a plural s is allowed."""
_PLAIN = {"pair", "twin"}
"""Words of everyday use: on the glossary page, and left unmarked elsewhere."""
_MARKED = sorted(set(GLOSSARY) - _PLAIN, key=lambda word: (-len(word), word))
_WORDS = re.compile(r"(?<![\w.:-])(" + "|".join(map(re.escape, _MARKED)) + r")(s?)(?![\w-])")


def anchor(word: str) -> str:
    """The id of a word on the glossary page."""
    return "word-" + re.sub(r"\W+", "-", word)


def marked(text: str, root: str | None = "") -> Markup:
    """Text, escaped, with the first mention of every word of the glossary linked to it and its meaning as hover text.

    `root` leads from the page to the folder of glossary.html ("" or "../"); None marks without links, where none may stand.
    """
    told: set[str] = set()
    parts, at = [], 0
    for match in _WORDS.finditer(text):
        word = match[1]
        if word in told:
            continue
        told.add(word)
        parts += [escape(text[at : match.start()]), _link(match[0], word, root)]
        at = match.end()
    return Markup("").join([*parts, escape(text[at:])])


def _link(shown: str, word: str, root: str | None) -> Markup:
    if root is None:
        return Markup('<span class="term" data-tip="{}">{}</span>').format(GLOSSARY[word], shown)
    return Markup('<a class="term" href="{}glossary.html#{}" data-tip="{}" aria-description="{}">{}</a>').format(
        root, anchor(word), GLOSSARY[word], GLOSSARY[word], shown
    )
