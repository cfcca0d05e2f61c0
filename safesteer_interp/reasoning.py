"""What of an answer is meant for the user: reasoning blocks, channels, boxes and labels of chat formats taken off.

Reasoning models think before they answer, in a block of their own. What they think is no answer: "I could decline" is no refusal.
"""

from __future__ import annotations

import re

_NAME = "(?:think|thinking|thought|reasoning|reflection|scratchpad|seed:think)"
_MARKS = re.compile(
    rf"(?P<opens><{_NAME}>|\[think\]|◁think▷|<\|begin_of_thought\|>|<\|start_thinking\|>)|"
    rf"</{_NAME}>|\[/think\]|◁/think▷|<\|end_of_thought\|>|<\|end_thinking\|>",
    re.IGNORECASE,
)
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^<]*(?:<\|constrain\|>[^<]*)?(?:<\|message\|>)?")
_BARE_CHANNEL = re.compile(r"\s*(?:analysis|commentary)\S")
"""The first channel of a text whose special tokens were left out in decoding; "assistantfinal" then begins the answer."""
_TOKENS = re.compile(r"<\|[^|<>]{1,40}\|>|</?(?:answer|response|output|solution|s|bos|eos)>|<(?:start|end)_of_turn>", re.IGNORECASE)
_LABEL = re.compile(
    r"\s*(?:(?:#+\s*)?(?:assistant|response|answer|final answer|model|ai|bot)\s*:|"
    r"(?:<\|im_start\|>|<start_of_turn>)\s*(?:assistant|model)\s*\n)\s*",
    re.IGNORECASE,
)


def strip_reasoning(text: str) -> str:
    """The answer as a user is shown it; empty when the answer was cut before it began. Text without any block is left as it is."""
    text = _final_channel(_outside_blocks(text))
    for _ in range(2):  # a label may stand before or behind a special token
        label = _LABEL.match(text)
        text = text[label.end() :] if label else text
        text = _TOKENS.sub("", text) if "<" in text else text
    return text


def _outside_blocks(text: str) -> str:
    """Blocks cut out. An end alone ends what the prompt began, and a block that does not end holds all the rest."""
    kept, start, inside = [], 0, False
    for mark in _MARKS.finditer(text):
        if mark["opens"] and not inside:
            kept.append(text[start : mark.start()])
            inside = True
        elif not mark["opens"]:
            kept = kept if inside else []
            start, inside = mark.end(), False
    return "".join(kept) if inside else "".join(kept) + text[start:]


def _final_channel(text: str) -> str:
    """What the last "final" channel says; nothing when there are only others."""
    channels = list(_CHANNEL.finditer(text))
    if channels:
        final = [mark for mark in channels if mark[1] == "final"]
        return text[final[-1].end() :] if final else text[: channels[0].start()]
    if _BARE_CHANNEL.match(text) and "assistantfinal" in text:
        return text.rpartition("assistantfinal")[2]
    return text
