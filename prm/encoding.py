"""Text in a PRM's vocabulary, behind other text, and the tokens that a format's labels are."""

from collections.abc import Sequence

from cos.search.errors import InputError
from cos.search.ports import Encoder, Vocabulary

_LETTER = "a"
"""Stands before a text while it is encoded: a letter, with which tokenizers join neither white space nor signs."""
_LINE_END = "\n"
"""Stands before a text that begins with a letter: tokenizers join no letter with the end of a line."""
_PARTED = "\u200b"
"""Takes no room where it is shown."""


def continued(vocabulary: Encoder, text: str) -> tuple[int, ...]:
    """Token ids of a text that stands behind other text, as it begins with white space, a digit or a sign.

    Many tokenizers put a space before all they are given, which is right for the beginning of a text only.

    Errors: ValueError where the vocabulary has no tokens for the text alone.
    """
    return _behind(vocabulary, _LETTER, text)


def placed(vocabulary: Encoder, text: str, before: str) -> tuple[int, ...]:
    """Token ids of a text behind another one. ``before``: what that one ends with, empty where it is a control token.

    Where the vocabulary joins the two, these are the ids of the text alone.
    """
    if not before:
        return vocabulary.encode(text)
    try:
        return _behind(vocabulary, before, text)
    except ValueError:
        return vocabulary.encode(text)


def last_of(vocabulary: Vocabulary, ids: Sequence[int]) -> str:
    """The last character of what some ids say; empty where the last is a control token."""
    text = vocabulary.decode(ids[-1:])
    return "" if vocabulary.control_id(text) is not None else text[-1:]


def single(vocabulary: Encoder, text: str, role: str) -> int:
    """The one token that a text is, behind other text: a control token, or else an ordinary one. A text that begins
    with a letter stands at the beginning of a line. ``role``: what the format takes it for, for the error.

    Errors: InputError where it is no single token.
    """
    control = vocabulary.control_id(text)
    try:
        before = _LINE_END if text[:1].isalpha() else _LETTER
        ids = _behind(vocabulary, before, text) if control is None else (control,)
    except ValueError:
        ids = ()
    if len(ids) != 1:
        made = f"makes it {len(ids)}" if ids else "joins it with what stands before it"
        raise InputError(
            f"the PRM's tokenizer has no single token {text!r} ({role}) but {made}; "
            "give a PRM trained in this format, or another --prm-format",
            "prm",
        )
    return ids[0]


def untagged(vocabulary: Encoder, text: str, tag: str, tag_id: int, *, before: str = "", behind: str = "") -> str:
    """A text that the token of a step tag does not stand in. Where it would, an invisible space parts the tag, or, if
    the tag is white space, the blank lines become one. A tag of a single character cannot be parted and stays.

    ``before`` and ``behind``: what the text is put between, with which it must not become a tag either.
    """
    if tag_id in vocabulary.encode(text):
        text = _parted(text, tag)
    own = vocabulary.encode(before + behind).count(tag_id)
    for apart in (text, f"{_PARTED}{text}", f"{_PARTED}{text}{_PARTED}"):
        if len(tag) == 1 or vocabulary.encode(before + apart + behind).count(tag_id) <= own:
            return apart
    return text


def _parted(text: str, tag: str) -> str:
    letters = tag.strip()
    if len(letters) > 1:
        return text.replace(letters, f"{letters[0]}{_PARTED}{letters[1:]}")
    if letters:
        return text.replace(tag, tag.replace(letters, f"{_PARTED}{letters}")) if len(tag) > 1 else text
    return "\n\n".join(part.strip("\n").rstrip() for part in text.split("\n\n") if part.strip())


def _behind(vocabulary: Encoder, before: str, text: str) -> tuple[int, ...]:
    """Errors: ValueError where the vocabulary joins the two."""
    begin, ids = vocabulary.encode(before), vocabulary.encode(before + text)
    if ids[: len(begin)] != begin:
        raise ValueError(f"the vocabulary joins {text[:16]!r} with what stands before it")
    return ids[len(begin) :]
