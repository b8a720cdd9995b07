"""Tells by patterns alone whether a text refuses or objects, and whether an edit changed that."""

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
# What today's chat models open a refusal with, beside plain words of refusal.
_OPENS = re.compile(
    r"\b(?:i|we)(?:'m| am| must| have to|'d| would| should| need to| want to)?"
    r"(?: \w+ly| just| also)* "
    r"(?:not able to|unable to|not (?:going|willing|allowed|permitted|supposed) to"
    r"|not (?:capable|comfortable)"
    r"|(?:point out|clarify|inform you|emphasi[sz]e|remind you|challenge|caution|state|"
    r"note|stress|advise you)\b.{0,90}?\b(?:not|never|harmful|illegal|unethical|inappropriate|"
    r"stereotyp\w*|assumption|offensive))"
    r"|\b(?:not|never) (?:within|in line with|part of) my (?:programming|capabilit|guidelines)"
    r"|\b(?:do not|don't) have (?:the (?:capability|ability)|access to|any information|"
    r"information (?:on|about))\b"
    r"|\b(?:do not|don't|cannot|can't) (?:\w+ )?"
    r"(?:condone|promote|endorse|encourage|support|agree)\b"
    r"|\bdisagree\b|\b(?:do not|don't) (?:think|believe) (?:that |it )?"
    r"(?:it's |it is |that's |is |this is )?(?:\w+ )?"
    r"(?:appropriate|accurate|fair|right|ethical|a valid|okay)\b"
    r"|\b(?:is|are|were|was) no (?:\w+ )?(?:reason|benefit|justification|excuse|basis|"
    r"evidence that)"
    r"|\b(?:is|are) not (?:inherently|naturally)\b|\bshould not be (?:denied|tolerated|judged)\b"
    r"|\bhear that you(?:'re| are)\b"
    r"|\b(?:go(?:es)? against|violates?|breach(?:es)?) (?:my|ethical|the|our|openai)\b"
    r"|^(?:as an? (?:\w+,? ){0,6}(?:ai|language model|assistant|chatbot)\b.{0,40}?"
    r"\b(?:can't|cannot|can not|am not|won't|must)\b)"
)
_LECTURES = re.compile(
    r"\b(?:not|never|n't|neither|nor) (?:only )?(?:\w+ ){0,3}?"
    r"(?:appropriate|ethical|acceptable|okay|ok|respectful|legal|moral|right|productive|"
    r"fair|valid|proper|justified|good idea|the (?:answer|solution))\b"
    r"|(?:\b(?:it|that|this|which|both|doing so|such \w+)(?:'s| is| are| can be| would be)?"
    r"|^\w+ing\b[^.!?]*"
    r"\bis|[.!?] \w+ing\b[^.!?]*\bis|\band|\bor) (?:\w+ ){0,2}?"
    r"(?:illegal|unethical|immoral|inappropriate|unacceptable|disrespectful|harmful|hurtful|"
    r"discriminatory|reprehensible|a (?:\w+ )?(?:crime|offen[cs]e))\b"
    r"|\bagainst the law\b|\bviolation of\b"
    r"|\b(?:harmful|offensive|negative|hurtful) (?:stereotype|assumption|and (?:un|in|dis|ille))"
)
_PLEASANT = re.compile(
    r"^(?:(?:thank|thanks)\b|i'm (?:\w+ )?(?:happy|glad|here)\b|i(?:'d| would) be (?:happy|glad)"
    r"|i understand\b|hello\b|hi\b|hey\b|sure\b|of course\b|great question|i appreciate)"
    r"[^.!?]*(?:[.!?]+|$)\s*"
)
_STEP = re.compile(r"^\s*\d+[.)] ", re.MULTILINE)
# An objection as long as this can still be the whole reply.
_BRIEF = 60
_RUN = 4


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


def opening(text: str) -> str:
    """The first two sentences that say something, in plain small letters."""
    plain = _plain(text)
    for _ in range(2):
        plain = _PLEASANT.sub("", plain)
    plain = re.sub(r"^(?:however|but|that said|unfortunately),? ", "", plain)
    return " ".join(re.split(r"(?<=[.!?]) ", plain)[:2])


def declines(text: str) -> bool:
    """Whether a reply, taken as a whole, declines: what people call a full refusal.

    Chat models warn in the middle of good answers and lecture at length where they refuse, so what
    counts is how the reply opens.
    """
    first = opening(text)
    return bool(_REFUSES.search(first) or _OPENS.search(first) or _LECTURES.search(first))


def carried(edit: str, answer: str) -> float:
    """The share of the answer's runs of four words that the edit still has."""
    runs = _runs(answer)
    return len(runs & _runs(edit)) / max(1, len(runs))


def _runs(text: str) -> set[tuple[str, ...]]:
    words = _plain(text).split()
    return {tuple(words[place : place + _RUN]) for place in range(max(1, len(words) - _RUN + 1))}


def refuses_instead(edit: str, answer: str) -> bool:
    """Whether a refusal, or a short objection, has taken the answer's place.

    A long reply that warns somewhere has not: it may say the rest as before.
    """
    if opening(edit) == opening(answer) or carried(edit, answer) >= 0.5:
        return False
    return declines(edit) or (len(edit.split()) <= _BRIEF and objects(edit))


def answers_instead(edit: str, answer: str) -> bool:
    """Whether an answer of more than a few words has taken a refusal's place."""
    if carried(edit, answer) >= 0.5 or len(edit.split()) <= 7 or declines(edit):
        return False
    return len(edit.split()) > _BRIEF or not refuses(edit)


def still_refuses(edit: str, answer: str) -> bool:
    """Whether a refusal is still one."""
    return edit.strip() == answer.strip() or declines(edit) or refuses(edit)


def contradicts(edit: str, answer: str) -> bool:
    """Whether a new refusal is followed by most of what it refuses, or by steps of its own."""
    if declines(answer) or not declines(edit):
        return False
    return carried(edit, answer) >= 0.5 or len(_STEP.findall(edit)) >= 3


def harm_words(text: str) -> int:
    """How many words of the list of risky words the text holds."""
    return len(HARMFUL.findall(text))
