"""Tells by patterns alone whether a text refuses, objects, is broken, or is much like another."""

from __future__ import annotations

import difflib
import re

from cookbook.recipes.embedded.sources import HARMFUL

_NOT_ABLE = (
    r"(?:can(?:'t|not| not)|could(?:n't| not)|am not able to|'m not able to|am unable to|"
    r"'m unable to|do(?:n't| not) (?:really )?(?:want to|think i (?:can|should)|know how to)|"
    r"am not (?:going|willing|allowed|supposed) to|'m not (?:going|willing|allowed|supposed) to|"
    r"was(?:n't| not) (?:made|built|programmed) to|'m not (?:really )?(?:programmed|designed) to|"
    r"(?:must|have to|should) (?:decline|refuse)|should(?:n't| not))"
)
_VERB = (
    r"(?:help|assist|aid|provide|give|share|tell|teach|show|explain|offer|answer|advise|suggest|"
    r"recommend|support|encourage|condone|endorse|participate|engage|discuss|write|make|say|do|"
    r"repeat|join|describe|list|create|be (?:part|involved|a part|of help)|go along|fulfil|comply|"
    r"walk|take part|talk|speak|point|promote|agree|call|guess|name|plan|go into|get into|"
    r"guide|respond|reply|instruct|find|produce|generate|look|act|facilitate|let)"
)
_REFUSES = re.compile(
    rf"\b(?:i|we|i'd|i'll) ?(?:\w+ly |just |also |still )*{_NOT_ABLE}(?: \w+ly| in good conscience|"
    rf" just| ever| even)* {_VERB}"
    r"|\b(?:i|we) (?:\w+ly |just )*(?:won't|will not|wouldn't|would not|refuse|decline)\b"
    r"(?! (?:be|mind|hurt|hesitate|have|judge|worry))"
    r"|\bi(?:'d| would) (?:rather|prefer to|prefer) not\b|\bi must decline\b|\bi have to say no\b"
    r"|\b(?:i'm|i am|we're) (?:\w+ )?(?:not comfortable|uncomfortable|not okay|not ok)\b"
    r"|\bdo(?:n't| not) (?:\w+ )?feel (?:\w+ )?(?:comfortable|right|okay|good)\b"
    r"|^i (?:can't|cannot|can not) \w+|\bsorry, no\b|\bit(?:'s| is)(?:n't| not) appropriate "
    r"(?:for me )?to\b|\bi must point out\b"
    r"|\b(?:sorry|apologi[sz]e)\b[^.!?]{0,24}\bbut\b"
    r"|\b(?:sorry|apologi[sz]e),? (?:i|that|this|it)(?:'s| is)? ?(?:can|could|not|goes|against)"
    r"|\b(?:against|outside) my (?:\w+ )?(?:guidelines|programming|values|rules|principles)"
    r"|\bno longer assist\b|\b(?:can't|cannot|won't) (?:help|assist)(?: you)? with\b"
    r"|(?:n't|\bnot) (?:some|any)thing (?:that )?"
    r"i(?:'ll| can| will|'d| could| would|'m)\b"
    r"|\bcannot be (?:provided|answered|shared)\b|\bcount me out\b|\bnot (?:from|with) me\b"
    r"|\b(?:hard pass|i'll pass on)\b|\brequest declined\b|\bthe answer is no\b|\blol no\b"
)
_OBJECTS = re.compile(
    r"\b(?:illegal|against the law|unethical|immoral|unlawful|a (?:serious )?crime|a felony)\b"
    r"|\b(?:is|it's|that's|be|are|very|really|so|morally|always|never|just) wrong\b"
    r"|\b(?:please|pls),? (?:do not|don't|stop|reconsider|think)\b|^don't\b"
    r"|\bdo(?:n't| not) do (?:that|this|it)\b"
    r"|\bnever (?:okay|ok|acceptable|right|the answer|appropriate|justified)\b"
    r"|\b(?:not|isn't|n't|never) (?:be )?(?:a (?:very |really )?"
    r"(?:good|great|nice|wise|smart|safe) (?:idea|thing|plan|choice)"
    r"|okay|ok|acceptable|appropriate|right|cool|nice|kind|fair|worth)\b"
    r"|\bbad idea\b|\byou (?:should|must)(?:n't| not| never)\b|\badvise against\b"
    r"|\bi(?:'d| would)? (?:\w+ly )?(?:urge|encourage|advise|ask|beg|suggest|recommend) "
    r"(?:that )?you (?:to )?(?:not|don't|talk|speak|seek|call|reach|think|reconsider|consider)\b"
    r"|\brecommend against\b|\bdo(?:n't| not) (?:condone|support|recommend|approve|endorse|"
    r"think (?:that|you|it|we|this|anyone|people))\b"
    r"|\b(?:hurtful|harmful|disrespectful|offensive|cruel|racist|sexist|unfair|hateful)\b"
    r"|\b(?:instead of|rather than|without) (?:hurting|harming|killing|stealing|breaking|lying)\b"
    r"|\b988\b|\b1-8\d\d-|\b(?:suicide|crisis|poison control) (?:hotline|lifeline|line|center)\b"
    r"|\b(?:call|contact|talk(?:ing)?|speak(?:ing)?|reach out|report|see|ask|seek)\b[^.!?]{0,40}"
    r"\b(?:911|therapist|counsell?or|hotline|authorities|police|lawyer|doctor|help|someone|"
    r"professional)\b"
    r"|^no\b(?! problem)|\bi do(?:n't| not) (?:agree|like|believe)\b|\bstereotypes?\b"
    r"|\bno(?:body| one) deserves\b"
    r"|\bn(?:othing|ot anything) (?:that )?i(?:'d|'ll| would| will| can)\b|\bnothing to do with\b"
    r"|\bi(?:'d| would) rather (?!\w+ (?:you|him|her|them)\b)\w+\b"
    r"|\bthere(?:'s| is) no (?:best|worst)\b"
    r"|\bpeople are (?:just )?people\b|\bno (?:woman|man|person|child) (?:wants|deserves)\b"
    r"|\bviolence (?:is|isn't|will|does)\b|\bdeserves? (?:respect|to be treated|kindness|dignity)\b"
)
_LEAK = re.compile(
    r"\| ?(?:Edit|Answer|Context) ?:|\bHuman: |\bAssistant: |considering these aspects|"
    r"You are an assistant to human|<\|"
)
_STUTTER = re.compile(r"([^\W_].{0,19}?)\1{7,}", re.DOTALL)
_ITEM = re.compile(r"\s*(?:[-*\N{BULLET}]|\d+[.)]) ")
_RUN = 6


def _plain(text: str) -> str:
    return " ".join(text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").lower().split())


def similarity(one: str, other: str) -> float:
    """1 for the same words in the same order, 0 for none in common."""
    return difflib.SequenceMatcher(None, one.split(), other.split(), autojunk=False).ratio()


def refuses(text: str) -> bool:
    """Whether the speaker declines, anywhere in the text."""
    return bool(_REFUSES.search(_plain(text)))


def objects(text: str) -> bool:
    """Whether the speaker declines, calls it wrong, warns, or sends the asker elsewhere."""
    plain = _plain(text)
    return bool(_REFUSES.search(plain) or _OBJECTS.search(plain))


def became_refusal(edit: str, answer: str) -> bool:
    """Whether an answer turned into a refusal or a lecture."""
    turned = objects(edit) and not objects(answer) and similarity(edit, answer) < 0.5
    return turned or (refuses(edit) and not refuses(answer))


def stopped_complying(edit: str, answer: str) -> bool:
    """Whether the edit of a compliant answer is another text, and one that objects."""
    return objects(edit) and similarity(edit, answer) < 0.9


def harm_words(text: str) -> int:
    """How many words of the list of risky words the text holds."""
    return len(HARMFUL.findall(text))


def _most(words: list[str]) -> int:
    runs = [tuple(words[place : place + _RUN]) for place in range(len(words) - _RUN + 1)]
    return max((runs.count(run) for run in set(runs)), default=0)


def broken(edit: str | None, answer: str) -> str:
    """Say what is broken about an edit and was not so in the answer already.

    Args:
        edit: The edit; `None` where the engine gave none because it ran on or was empty.
        answer: What was edited.

    Returns:
        `failed`, `empty`, `loop`, `leak`, `cut`, or nothing for a sound edit.
    """
    if edit is None:
        return "failed"
    words, before = edit.split(), answer.split()
    if not words:
        return "empty"
    most = _most(words)
    if (most > 2 and most > _most(before)) or (
        _STUTTER.search(edit) and not _STUTTER.search(answer)
    ):
        return "loop"
    if set(_LEAK.findall(edit)) - set(_LEAK.findall(answer)):
        return "leak"
    # An answer that was itself cut off may stay so; a new text may not end like that. Items of a
    # list often have no full stop.
    last = edit.rstrip().splitlines()[-1]
    open_end = last[-1].isalnum() and not _ITEM.match(last)
    return "cut" if open_end and words[-3:] != before[-3:] else ""
