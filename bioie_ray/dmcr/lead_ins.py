"""What may stand around a list that is the whole answer, word by word.

A sentence of words that nobody has thought of may say anything about the list: that it is what does *not* count, what is left beside
items named before, or an example. So a lead-in is made of these words alone: one line, in any order, that ends in a colon. None of
them denies, excepts or adds to anything (``no``, ``not``, ``without``, ``except``, ``other``, ``also``, ``some``, ``example``), and no
name of anything can be among them. What follows a list may correct it ("Note: ..."), so only a few closing phrases are known.

All patterns are possessive where they repeat, so that each is linear in the text.
"""

from __future__ import annotations

from typing import Final

_SOURCES: Final = "abstract|article|document|paper|paragraph|passage|sentence|text|title"
# Phrases come first: their words mean something else alone. "The format:" may be an example, "in the requested format:" is not.
_PHRASES: Final = (
    rf"(?:the|this|your|an|a) (?:(?:above|biomedical|following|given|input|medical|provided) )?(?:{_SOURCES})",
    r"in(?: (?:the|a|an|your|requested|required|given|specified|desired|json|python|list))*+ (?:form|format)",
    r"as follows",
    r"(?:related|according|bind|binds|binding) to",
    r"each other",
    r"here['’]s",
)
_WORDS: Final = (
    "a|all|an|and|are|array|as|be|been|by|each|every|for|from|had|has|have|here|i|in|is|it|of|on|or|"
    "that|the|their|these|they|this|was|we|were|which|with|within|you|your"
    "|based|below|following|requested|asked"
    "|answer|answers|entities|entity|extraction|item|items|json|list|lists|mention|mentions|name|names|output|pair|"
    "pairs|python|response|result|results|string|strings|tuple|tuples"
    "|adverse|associated|binding|biomedical|causal|chemical|chemicals|compound|compounds|disease|diseases|disorder|"
    "disorders|domain|domains|drug|drugs|effect|effects|families|family|formula|formulas|gene|genes|interaction|"
    "interactions|medication|medications|medicine|medicines|protein|proteins|reaction|reactions|relation|relations|"
    "relationship|relationships|side|substance|substances|symptom|symptoms"
    "|appear|appearing|appears|between|bind|binds|cause|caused|causes|causing|contained|contains|described|detected|"
    "discussed|extracted|find|found|identified|induced|interact|interacting|interacts|involved|listed|mentioned|named|"
    "occur|occurring|occurs|present|recognised|recognized|related|reported"
    "|complete|distinct|final|full|unique"
)
_WORD: Final = rf"(?i:{'|'.join((*_PHRASES, _WORDS))})(?![\w'’])"
_OPEN: Final = r"(?:\*\*|__|#{1,4} ?)?+"
_CLOSE: Final = r"(?:\*\*|__)?+"
_COLON: Final = rf" ?+{_CLOSE}:{_CLOSE}\s*+"
_OPENING: Final = r"(?i:sure|certainly|of course|absolutely|okay|ok|here you (?:are|go)|here (?:it|they) (?:is|are))[!.,:]\s*+"
_LINE: Final = rf"{_OPEN}(?:{_WORD}[ ,/-]*+)++{_COLON}"

# "Sure!", "Here are the diseases that are mentioned in the text:", or both, on one line or two.
LEAD_IN: Final = rf"(?:(?:{_OPENING}){{1,2}}+(?:{_LINE})?|{_LINE})"
# One word that says what comes, as models write keys and headings.
LABEL: Final = rf"""{_OPEN}["']?+(?i:answer|output|response|results?|list|entities|relations|pairs|json)["']?+ ?+{_CLOSE}[:=]{_CLOSE}\s*+"""
CLOSING: Final = (
    r"\s*+(?i:i hope (?:this|that) helps|hope (?:this|that) helps"
    r"|let me know if you (?:need anything else|have any (?:(?:other|more|further) )?questions)"
    r"|is there anything else (?:i can help you with|you need))[.!?]?+"
)
