"""JailBreakV-28K (arXiv 2404.03027): jailbreak templates of language models beside pictures, and attacks in pictures.

Layout: `jailbreakv/data/JailBreakV_28K/{mini_JailBreakV_28K,JailBreakV_28K,RedTeam_2K}.csv` (or directly under `jailbreakv/`); pictures
below it under llm_transfer_attack/, query_related/ and figstep/, as the hub has them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from safesteer_interp.datasets.dataset import Dataset
from safesteer_interp.datasets.figstep import read_csv
from safesteer_interp.datasets.published import BLANK, finished, first_file, first_folder, picture
from safesteer_interp.errors import InputError
from safesteer_interp.requests import Attack, ImageSource, Request

FORMS = {
    "Template": Attack.CB, "Persuade": Attack.CB, "Logic": Attack.CB, "SD": Attack.SD, "typo": Attack.TYPO, "figstep": Attack.TYPO,
    "SD_typo": Attack.SD_TYPO,
}  # fmt: skip
"""The authors' format -> where the harm sits; templates carry it in the text, beside a picture that means nothing."""
IN_TEXT = ("Template", "Persuade", "Logic")


def load_jailbreakv(root: Path, *, full: bool = False, redteam: bool = False, blank: bool = False) -> list[Request]:
    """The mini set; `full`: all 28,000; `redteam`: RedTeam_2K, the plain requests behind them, without pictures.

    `blank`: the text attacks alone, each beside a blank picture. Requests that attack with the same plain request are one pair.
    Raises InputError naming the missing file, column or an unknown format.
    """
    base = Path(root) / "jailbreakv"
    name = "RedTeam_2K.csv" if redteam else "JailBreakV_28K.csv" if full else "mini_JailBreakV_28K.csv"
    path = first_file(base, (f"data/JailBreakV_28K/{name}", f"JailBreakV_28k/{name}", name), "JailBreakV-28K")
    if redteam:
        rows = read_csv(path, ("id", "question", "policy"))
        return finished([_plain(row["question"], row["policy"], row["id"]) for row in rows], "RedTeam-2K")
    folder = first_folder(base, (str(path.parent.relative_to(base)), "JailBreakV_28k"))
    requests = []
    for number, row in enumerate(read_csv(path, ("jailbreak_query", "redteam_query", "format", "policy", "image_path"))):
        form = row["format"]
        if form not in FORMS:
            raise InputError(f'{path}: format "{form[:40]}" is none of {", ".join(FORMS)}.')
        if blank and form not in IN_TEXT:
            continue
        where = f'{path}, row {number}: field "image_path"'
        image: ImageSource = BLANK if blank else picture(folder, row["image_path"], where)
        requests.append(
            Request(
                row["jailbreak_query"],
                image,
                id=f"jailbreakv-{number:05d}",
                harmful=True,
                attack=FORMS[form],
                scenario=row["policy"],
                pair=_pair(row["redteam_query"]),
                dataset="jailbreakv",
                intent=row["redteam_query"],
            )
        )
    advice = "fetch its pictures, or ask for jailbreakv:blank (the text attacks) or jailbreakv:redteam, which need none."
    return finished(requests, "JailBreakV-28K", advice)


def _plain(question: str, policy: str, number: str) -> Request:
    return Request(question, id=f"redteam-{number}", harmful=True, attack=Attack.TEXT, scenario=policy, pair=_pair(question),
                   dataset="jailbreakv")  # fmt: skip


def _pair(question: str) -> str:
    return f"jailbreakv-{hashlib.sha256(question.encode()).hexdigest()[:12]}"


ENTRY = Dataset(
    "JailBreakV-28K: text jailbreaks beside pictures, and picture attacks; options: full, redteam, blank, hub",
    load_jailbreakv,
    folder="jailbreakv",
    licence="MIT",
    citation="arXiv:2404.03027",
    hub="JailbreakV-28K/JailBreakV-28k",
)
